-- look_at_run: a run and its counters as of one instant. Not a transition; a script because MULTI is refused, even
-- for reads, when memory is used up.
-- KEYS     1 run, 2 counters of all runs
-- ARGV     fields of the counters
-- returns  fields and values of the run, values of the counters
-- refuses  nothing

return { redis.call('HGETALL', KEYS[1]), redis.call('HMGET', KEYS[2], unpack(ARGV)) }
