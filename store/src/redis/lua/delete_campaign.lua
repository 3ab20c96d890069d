-- delete_campaign: its runs stay.
-- KEYS     1 campaign, 2 campaigns by name, 3 outbox, 4 version, 5 schedules
-- ARGV     1 name, 2 subject
-- returns  version and word of the effect on the shards; nothing: there was no such campaign
-- refuses  nothing

redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[5])
local version = next_version(KEYS[3], KEYS[4])
local was = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
if was == 0 then return {} end
send_effect(KEYS[3], KEYS[4], version, ARGV[2], 'none')
return { version, 'none' }
