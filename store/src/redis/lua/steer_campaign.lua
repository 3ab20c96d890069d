-- steer_campaign: whether a campaign may start runs, as far as a shard must know.
-- KEYS     the shard's
-- ARGV     1 version, 2 subject, 3 word (ok, paused, none)
-- returns  1 done, 0 the shard knows this or a newer one
-- refuses  nothing

local version = num(ARGV[1], 'version')
if version <= steered_at(ARGV[2]) then return 0 end
call('HSET', K.steered, ARGV[2], int(version) .. ' ' .. ARGV[3])
return 1
