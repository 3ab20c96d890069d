-- Common to pause_run, resume_run and cancel_run; prepended after the prelude.
-- KEYS  the shard's, then: run          ARGV  1 run id

local RUN, ID, STATE, NONE, CANCELLED

-- Of this call, after `begin`.
local function begin_steer()
  RUN, ID = KEYS[OWN + 1], ARGV[1]
  STATE = call('HMGET', RUN, 'lane', 'sites', 'paused', 'cancelled', 'error', 'complete')
  NONE, CANCELLED = not STATE[1], STATE[4] == '1'
end
