-- create_run: a new run, with its split due now.
-- KEYS     the shard's, then: run, runs being forgotten
-- ARGV     1 run id, 2 fingerprint, 3 campaign (ok, none, paused) as of, 4 version, 5 subject of the campaign, 6 nominal
--          at ms or '', then fields of the run hash and their values. Of a schedule: 3 fired, 4 version and 5 subject of
--          the effect
-- returns  created, existed, conflict, no_campaign, campaign_paused, being_forgotten
-- refuses  a run that is there, or has batches from before it was forgotten; one whose campaign is missing or paused

local key, id = KEYS[OWN + 1], ARGV[1]
local fingerprint = call('HGET', key, 'fingerprint')
if fingerprint then return fingerprint == ARGV[2] and 'existed' or 'conflict' end
if call('ZSCORE', KEYS[OWN + 2], id) then return 'being_forgotten' end
local campaign, version = ARGV[3], num(ARGV[4], 'version')
-- An effect begins one run, however often and however late it is carried out.
if campaign == 'fired' and steered_at(ARGV[5]) >= version then return 'existed' end
-- It was read before this script runs: the shard may have been told of a pause or an end since.
if campaign == 'ok' and steered_at(ARGV[5]) > version then
  campaign = string.match(call('HGET', K.steered, ARGV[5]), ' (%l+)$')
end
if campaign == 'none' then return 'no_campaign' end
if campaign == 'paused' then return 'campaign_paused' end
local f = call('HMGET', K.shard, 'base', 'back_at')
local nominal = ARGV[6] == '' and int(now) or ARGV[6]
-- What was due before the shard went back may have been begun, and sent, in what was lost.
local is_again = campaign == 'fired' and f[2] and num(nominal, 'nominal time') <= num(f[2], 'back_at')
call('HSET', key, 'fingerprint', ARGV[2], 'nominal_at', nominal, 'created_at', int(now), 'cursor', '0', 'sequence', '0',
  'bad', '0', 'repeated', '0', 'complete', '0', 'open', '', 'sites', '', unpack(ARGV, 7))
if campaign == 'fired' then call('HSET', K.steered, ARGV[5], int(version) .. ' fired') end
-- It is not from before the shard went back.
if f[1] and not is_again then call('HSET', key, 'epoch', f[1]) end
grow()
call('ZADD', K.runs, int(now), id)
split_set_due(id, false, now)
wake_all()
return 'created'
