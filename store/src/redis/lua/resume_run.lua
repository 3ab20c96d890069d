-- resume_run: pause and error are gone; an unfinished split that nobody holds is due now.
-- KEYS, ARGV  see steer.lua
-- returns     done, no_run, cancelled
-- refuses     a cancelled run

if NONE then return 'no_run' end
if CANCELLED then return 'cancelled' end
call('HDEL', RUN, 'paused', 'error', 'error_message', 'error_mend')
set_parked(ID, STATE[1], STATE[2] or '', false)
if STATE[6] ~= '1' and not call('HGET', K.split, ID) then split_set_due(ID, false, now) end
wake_all()
grow()
return 'done'
