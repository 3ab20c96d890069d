-- know_suppressions: the set of those who are not sent to has this number now. Batches that were not checked at it get no intents.
-- KEYS     the shard's
-- ARGV     1 number
-- returns  1 done, 0 the shard knows this or a newer one
-- refuses  nothing

local number = num(ARGV[1], 'the number of a set')
if number <= num(call('HGET', K.shard, 'suppressed') or '0', 'the number of a set') then return 0 end
call('HSET', K.shard, 'suppressed', int(number))
grow()
return 1
