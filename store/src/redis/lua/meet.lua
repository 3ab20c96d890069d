-- meet: tells the shard which server it is on. A script because a server that is full refuses these commands by themselves.
-- KEYS     1 shard
-- ARGV     1 the server's run_id
-- returns  1
-- refuses  nothing

redis.call('HSETNX', KEYS[1], 'epoch', '1')
redis.call('HSET', KEYS[1], 'met', ARGV[1])
return 1
