-- create_run: a new run, with its split due now.
-- KEYS     the shard's, then: run
-- ARGV     1 run id, 2 fingerprint, 3 campaign (ok, none, paused), 4 nominal at ms or '', then fields of the run hash
--          and their values
-- returns  created, existed, conflict, no_campaign, campaign_paused
-- refuses  a run that is there; one whose campaign is missing or paused

local key, id = KEYS[OWN + 1], ARGV[1]
local fingerprint = call('HGET', key, 'fingerprint')
if fingerprint then return fingerprint == ARGV[2] and 'existed' or 'conflict' end
if ARGV[3] == 'none' then return 'no_campaign' end
if ARGV[3] == 'paused' then return 'campaign_paused' end
local base = call('HGET', K.shard, 'base')
local nominal = ARGV[4] == '' and int(now) or ARGV[4]
call('HSET', key, 'fingerprint', ARGV[2], 'nominal_at', nominal, 'created_at', int(now), 'cursor', '0', 'sequence', '0',
  'bad', '0', 'repeated', '0', 'complete', '0', 'open', '', 'sites', '', unpack(ARGV, 5))
-- It is not from before the shard went back.
if base then call('HSET', key, 'epoch', base) end
grow()
call('ZADD', K.runs, int(now), id)
split_set_due(id, false, now)
wake_all()
return 'created'
