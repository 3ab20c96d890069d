-- acknowledge_effect: every shard has it.
-- KEYS     1 outbox
-- ARGV     1 subject, 2 version and word
-- returns  1 forgotten, 0 a newer one took its place, or it was acknowledged before
-- refuses  nothing

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
