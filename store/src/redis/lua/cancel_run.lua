-- cancel_run: for ever. The split ends; pending recipients are converted by cancel_batches and by put back.
-- KEYS, ARGV  see steer.lua
-- returns     done, no_run
-- refuses     nothing

if NONE then return 'no_run' end
if CANCELLED then return 'done' end
local pending = num(call('HGET', K.count, ID .. '|pending') or '0', 'pending')
call('HSET', RUN, 'cancelled', '1', 'open', '')
if pending == 0 then call('HSETNX', K.count, ID .. '|settled_at', int(now)) end
split_end(ID)
set_parked(ID, STATE[1], STATE[2] or '', true)
call('ZADD', K.to_cancel, 0, ID)
grow()
return 'done'
