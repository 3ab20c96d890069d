-- claim: due batches become ready, and the worker gets those whose turn it is.
-- KEYS     the shard's
-- ARGV     1 worker, 2 request, 3 nonce, 4 batches max, 5 ttl ms, 6 hard cap ms, 7 slots, 8 forget workers after ms,
--          9 number of lanes, then lane and weight of each, then limits, see pace.lua
-- returns  epoch and sequence of the shard after it (nil: as before), now, drain (0 or 1), then of each lease: batch, fence,
--          entry, expires at, hard deadline
-- refuses  a draining worker, or a shard that was not compared or went back (nothing new); a lane or site without room is passed over

local HISTORY_BACKLOG_BATCHES_MAX = 10000
local UNPARK_MAX = 100
local met, confirmed, stop
fence_at, met, confirmed, stop, epoch = unpack(call('HMGET', K.shard, 'fence', 'met', 'server', 'stop', 'epoch'))
fence_at = num(fence_at or '0', 'the counter of fences')
local stopped = is_stopped(met, confirmed, stop)
is_met = met == confirmed
-- Without limits half of the keys are never met, and of the others these are not read before the first write.
if limited then
  check_types()
else
  call('HLEN', K.count)
  call('HLEN', K.depth)
  call('HLEN', K.holder)
  call('ZCARD', K.lease)
  call('ZCARD', K.rdy)
end

local function claim()
  local seen = look_at_worker()
  local answer = { epoch, false, now, tonumber(seen.drain) }
  if stopped or same_claim(answer) or seen.drain == '1' then
    write_worker(seen)
    return answer
  end
  promote()
  local leased = {}
  -- What is settled is not written to history: nothing new is begun until it is.
  if call('ZCARD', K.to_retire) < HISTORY_BACKLOG_BATCHES_MAX then
    if limited then unpark(UNPARK_MAX) end
    leased = take_turns()
  end
  write_worker(seen)
  write_turns()
  if #leased > 0 then
    write_leases(leased, answer)
    answer[2] = grow()
  end
  write_counts()
  return answer
end

local ok, answer = pcall(claim)
if ok then return answer end
-- Nothing is written yet. If a key of another type is what is wrong, the message names it.
check_types()
error(answer)
