-- forget_segments: whoever looked after segments that forgotten batches named is done with these.
-- KEYS     1 segments left
-- ARGV     two each: name, when it was left last
-- returns  how many are not waited for any more
-- refuses  one that was left again since

redis.call('ZCARD', KEYS[1])
local gone = 0
for n = 1, #ARGV, 2 do
  local at = redis.call('ZSCORE', KEYS[1], ARGV[n])
  if at and tonumber(at) == tonumber(ARGV[n + 1]) then gone = gone + redis.call('ZREM', KEYS[1], ARGV[n]) end
end
return gone
