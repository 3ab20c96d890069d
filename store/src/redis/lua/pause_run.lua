-- pause_run: nothing new is leased or intended until it is resumed.
-- KEYS, ARGV  see steer.lua
-- returns     done, no_run, cancelled
-- refuses     a cancelled run

if NONE then return 'no_run' end
if CANCELLED then return 'cancelled' end
call('HSET', RUN, 'paused', '1')
set_parked(ID, STATE[1], STATE[2] or '', true)
grow()
return 'done'
