-- set_campaign_paused: no run is created for a paused campaign.
-- KEYS     1 campaign
-- ARGV     1: 1 paused, 0 not
-- returns  1 done, 0 there is none
-- refuses  nothing

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'paused', ARGV[1])
return 1
