-- Common to pause_run, resume_run and cancel_run; prepended after the prelude.
-- KEYS  the shard's, then 25: run          ARGV  1 run id

local RUN, ID = KEYS[OWN + 1], ARGV[1]
local STATE = call('HMGET', RUN, 'lane', 'sites', 'paused', 'cancelled', 'error', 'complete')
local NONE, CANCELLED = not STATE[1], STATE[4] == '1'
