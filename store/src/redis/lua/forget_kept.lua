-- forget_kept: audiences and definitions that nobody names.
-- KEYS     1 kept, then for each the key of the definition, or the first key again for an audience
-- ARGV     two each: name (A|sha256, D|hash), when somebody was about to name it last
-- returns  the numbers of those that are gone, from 0
-- refuses  one that somebody was about to name since

redis.call('ZCARD', KEYS[1])
local gone = {}
for n = 0, #ARGV / 2 - 1 do
  local name = ARGV[1 + n * 2]
  local at = redis.call('ZSCORE', KEYS[1], name)
  if at and tonumber(at) == tonumber(ARGV[2 + n * 2]) then
    redis.call('ZREM', KEYS[1], name)
    if KEYS[2 + n] ~= KEYS[1] then redis.call('DEL', KEYS[2 + n]) end
    gone[#gone + 1] = n
  end
end
return gone
