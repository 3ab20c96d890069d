-- apply_campaign: creates or replaces a campaign. Its message definition was set before it, under its hash.
-- KEYS     1 campaign, 2 campaigns by name, 3 outbox, 4 version, 5 schedules
-- ARGV     1 name, 2 spec, 3 definition hash, 4 idempotency key or empty, 5 fingerprint, 6 keys kept at most,
--          7 schedule or empty
-- returns  version, changed (0, 1); or conflict
-- refuses  a known key with another fingerprint

local now = string.format('%.0f', now_ms())
local f = redis.call('HMGET', KEYS[1], 'version', 'spec', 'paused', 'keys', 'schedule')
local version = tonumber(f[1] or '0')
if not version then return redis.error_reply('CORRUPT the version of a campaign') end

-- Of each keyed apply, oldest first: key, fingerprint and the answer, a line each.
local known = {}
for key, fingerprint, answered, changed in string.gmatch(f[4] or '', '(%S+) (%S+) (%d+) ([01])') do
  if key == ARGV[4] then
    if fingerprint ~= ARGV[5] then return 'conflict' end
    return { tonumber(answered), tonumber(changed) }
  end
  known[#known + 1] = key .. ' ' .. fingerprint .. ' ' .. answered .. ' ' .. changed
end

-- Reads before the first write: a campaign index of another type refuses.
redis.call('ZCARD', KEYS[2])
redis.call('ZCARD', KEYS[5])
local steered = next_version(KEYS[3], KEYS[4])
local changed = f[2] ~= ARGV[2] or (f[5] or '') ~= ARGV[7]
if changed then version = version + 1 end
local text = string.format('%.0f', version)
local set = {}
if changed then
  set = { 'version', text, 'spec', ARGV[2], 'definition', ARGV[3], 'paused', f[3] or '0', 'applied_at', now }
end
-- What a shard was told of an earlier campaign of this name is older than this one.
if not f[1] then
  set[#set + 1] = 'steered'
  set[#set + 1] = steered
end
if changed and ARGV[7] ~= '' then
  for _, value in ipairs({ 'stamp', steered, 'schedule', ARGV[7] }) do set[#set + 1] = value end
  -- Another schedule begins now: nothing of the time before is due by it.
  if f[5] ~= ARGV[7] then
    for _, value in ipairs({ 'decided', now, 'active', now, 'due', '', 'zones', '' }) do set[#set + 1] = value end
  end
end
if not f[1] or changed then redis.call('SET', KEYS[4], steered) end
if ARGV[4] ~= '' then
  known[#known + 1] = ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. text .. ' ' .. (changed and '1' or '0')
  while #known > tonumber(ARGV[6]) do table.remove(known, 1) end
  set[#set + 1] = 'keys'
  set[#set + 1] = table.concat(known, '\n')
end
if #set > 0 then redis.call('HSET', KEYS[1], unpack(set)) end
if changed then redis.call('ZADD', KEYS[2], 0, ARGV[1]) end
if changed and ARGV[7] == '' and f[5] then
  redis.call('HDEL', KEYS[1], unpack(SCHEDULE_FIELDS))
  redis.call('ZREM', KEYS[5], ARGV[1])
elseif changed and ARGV[7] ~= '' and f[3] ~= '1' then
  redis.call('ZADD', KEYS[5], now, ARGV[1])
end
return { version, changed and 1 or 0 }
