-- set_campaign_paused: no run is created for a paused campaign.
-- KEYS     1 campaign, 2 outbox, 3 version
-- ARGV     1: 1 paused, 0 not, 2 subject
-- returns  version and word of the effect on the shards; nothing: there is no such campaign
-- refuses  nothing

local version = next_version(KEYS[2], KEYS[3])
if redis.call('HLEN', KEYS[1]) == 0 then return {} end
local word = ARGV[1] == '1' and 'paused' or 'ok'
redis.call('HSET', KEYS[1], 'paused', ARGV[1], 'steered', version)
send_effect(KEYS[2], KEYS[3], version, ARGV[2], word)
return { version, word }
