-- send_effect: what every shard is to be told about a lane or a worker.
-- KEYS     1 outbox, 2 version
-- ARGV     1 subject, 2 word
-- returns  its version
-- refuses  nothing

local version = next_version(KEYS[1], KEYS[2])
send_effect(KEYS[1], KEYS[2], version, ARGV[1], ARGV[2])
return version
