-- set_campaign_paused: no run is created for a paused campaign, and its schedule is not looked at.
-- KEYS     1 campaign, 2 outbox, 3 version, 4 schedules
-- ARGV     1: 1 paused, 0 not, 2 subject, 3 name
-- returns  version and word of the effect on the shards; nothing: there is no such campaign
-- refuses  nothing

redis.call('ZCARD', KEYS[4])
local version = next_version(KEYS[2], KEYS[3])
local f = redis.call('HMGET', KEYS[1], 'version', 'paused', 'schedule')
if not f[1] then return {} end
local word = ARGV[1] == '1' and 'paused' or 'ok'
redis.call('HSET', KEYS[1], 'paused', ARGV[1], 'steered', version)
if f[3] then
  local now = string.format('%.0f', now_ms())
  redis.call('HSET', KEYS[1], 'stamp', version)
  if ARGV[1] == '1' then
    redis.call('ZREM', KEYS[4], ARGV[3])
  else
    redis.call('ZADD', KEYS[4], now, ARGV[3])
    if f[2] == '1' then redis.call('HSET', KEYS[1], 'active', now) end
  end
end
send_effect(KEYS[2], KEYS[3], version, ARGV[2], word)
return { version, word }
