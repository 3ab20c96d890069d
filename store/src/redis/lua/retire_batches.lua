-- retire_batches: batches whose history is durable become tombstones that name its segment.
-- KEYS     the shard's, then of each batch: its hash, its details, its payload
-- ARGV     1 request, 2 segment, 3 number of batches, then three each: batch id, stamp, payload name
-- returns  how many are in the segment now
-- refuses  a batch whose stamp is another one: it changed since it was claimed; all, while the server was not compared:
--          what it lacks may have given out the same stamps

local request, segment, number = ARGV[1], ARGV[2], num(ARGV[3], 'batches')
local retired, found = 0, {}
local f = call('HMGET', K.shard, 'met', 'server')
local compared = f[1] == f[2]
for n = 0, number - 1 do
  local key, id = KEYS[OWN + 1 + n * 3], ARGV[4 + n * 3]
  local stamp, name = num(ARGV[5 + n * 3], 'stamp'), ARGV[6 + n * 3]
  local h = {}
  local flat = call('HGETALL', key)
  for at = 1, #flat, 2 do h[flat[at]] = flat[at + 1] end
  local segments = h.h
  if compared and tonumber(call('ZSCORE', K.to_retire, id) or '') == stamp and h.s0 and (h.payload or '') == name then
    segments = segments and segments .. ',' .. segment or segment
    local kept = { 'h', segments }
    for field, value in pairs(h) do
      if field == 'n' or field == 'site' or field == 's0' or field == 's1' or field == 'x' or string.match(field, '^f%d+$') then
        kept[#kept + 1] = field
        kept[#kept + 1] = value
      end
    end
    found[#found + 1] = { id = id, key = key, details = KEYS[OWN + 2 + n * 3], payload = KEYS[OWN + 3 + n * 3], kept = kept }
  end
  if segments and string.match(segments, '[^,]*$') == segment then retired = retired + 1 end
end

for _, b in ipairs(found) do
  call('ZREM', K.to_retire, b.id)
  -- Made anew, since a hash that was large once would stay so.
  call('DEL', b.key, b.details, b.payload)
  call('HSET', b.key, unpack(b.kept))
end
if call('HGET', K.shard, 'history_by') == request then call('HDEL', K.shard, 'history_by', 'history_until') end
if #found > 0 then wake_all() end
return retired
