-- drain_worker: workers of that name or instance are told to drain at their next claim.
-- KEYS     the shard's
-- ARGV     1 name or instance
-- returns  how many there are
-- refuses  nothing

local wanted, n = ARGV[1], 0
local found = call('HGETALL', K.worker)
for at = 1, #found, 2 do
  local name, instance = string.match(found[at], '^(.+)/([^/]+)$')
  if name == wanted or instance == wanted then
    local seen, slots = string.match(found[at + 1], '^(%d+)|(%d+)|')
    if seen then
      call('HSET', K.worker, found[at], seen .. '|' .. slots .. '|1')
      n = n + 1
    end
  end
end
return n
