-- set_lane_paused: a paused lane is not claimed from and gets no intents.
-- KEYS     the shard's
-- ARGV     1 lane, 2: 1 paused, 0 not
-- returns  1
-- refuses  nothing

if ARGV[2] == '1' then
  call('SADD', K.lanes, ARGV[1])
elseif call('SREM', K.lanes, ARGV[1]) == 1 then
  call('HSET', K.node, 'P|' .. ARGV[1], int(math.max(pass_of(ARGV[1]), served_of(''))))
  wake_all()
end
grow()
return 1
