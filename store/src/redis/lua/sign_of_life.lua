-- sign_of_life: the first half of reclaim. Marks that a master is there and, after an outage, holds reclaiming back.
-- KEYS     the shard's
-- ARGV     1 ttl + doubt grace ms, 2 outage gap ms, 3 limit
-- returns  held ms (0: not held), then up to limit ids of expired leases, oldest first (a hint for reclaim)

local hold_ms, gap, limit = num(ARGV[1], 'hold'), num(ARGV[2], 'gap'), num(ARGV[3], 'limit')
local last, held, met, confirmed, stop =
  unpack(call('HMGET', K.shard, 'sign', 'hold_until', 'met', 'server', 'stop'))
-- Whether it went back is not known yet; the last sign says when the copy was made that it went back to.
if met ~= confirmed then return { hold_ms } end
local held_until = num(held or '0', 'hold_until')
if stop then num(stop, 'stop') end
local away
if last then
  local at = num(last, 'sign')
  away = now < at or now - at > gap
else
  away = call('ZCARD', K.lease) > 0
end
local expired = call('ZRANGEBYSCORE', K.lease, '-inf', int(now), 'LIMIT', '0', int(math.min(limit, 1000)))
-- Claims do it while there are limits; when these are taken away nobody else would.
unpark(100)
if away then held_until = now + hold_ms end
if stop == '-1' then
  held_until = now + hold_ms
  call('HSET', K.shard, 'stop', int(held_until))
elseif stop and now >= num(stop, 'stop') then
  call('HDEL', K.shard, 'stop')
end
call('HSET', K.shard, 'sign', int(now), 'hold_until', int(held_until))
if now < held_until then return { held_until - now } end
return { 0, unpack(expired) }
