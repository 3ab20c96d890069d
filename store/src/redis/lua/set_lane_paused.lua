-- set_lane_paused: a paused lane is not claimed from and gets no intents.
-- KEYS     the shard's
-- ARGV     1 version, 2 subject, 3 lane, 4: 1 paused, 0 not
-- returns  1 done, 0 the shard knows this or a newer one
-- refuses  nothing

local version, lane = num(ARGV[1], 'version'), ARGV[3]
if version <= steered_at(ARGV[2]) then return 0 end
call('HSET', K.steered, ARGV[2], int(version) .. ' ' .. ARGV[4])
if ARGV[4] == '1' then
  call('SADD', K.lanes, lane)
elseif call('SREM', K.lanes, lane) == 1 then
  call('HSET', K.node, 'P|' .. lane, int(math.max(pass_of(lane), served_of(''))))
  wake_all()
end
grow()
return 1
