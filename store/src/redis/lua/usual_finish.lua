-- usual_finish: finish, where nothing is special (see usual.lua): with the last outcomes everybody in the batch has ended, and
-- nobody in it may begin again.
-- KEYS     shard, count, holder, parked, lease, to_retire, then see usual.lua
-- ARGV     as finish
-- returns  see usual.lua; of each report status (settled), 0
-- refuses  whatever is not usual

local READ = { 'n', 's0', 's1', 'm0', 'm1', 'g!', 'q', 'w', 'k', 'x', 'expired' }

local function finish()
  local id, fence, key, at = next_report()
  if not id or over[id] then return nil end
  local n, s0, s1, m0, m1, granted, kept, suspicion, fallen, erased, expired = unpack(call('HMGET', key, unpack(READ)))
  if not s0 or n ~= int(#s0 + #(s1 or '')) or suspicion or fallen or erased then return nil end
  local h, b = lease_of(id, fence, kept), batch_of(s0, s1, m0, m1)
  if not (h and b and take_outcomes(b, h, at, granted)) then return nil end
  set_states(b)
  -- Nobody is pending, unknown or exhausted.
  if find(b.s0, '[^arsc]') or find(b.s1, '[^arsc]') then return nil end
  call('ZCARD', K.lease)
  call('ZCARD', K.to_retire)
  STAMP = (STAMP or num(call('HGET', K.shard, 'stamp') or '0', 'the stamp')) + 1

  put(b.set, 'ended', fence)
  if expired == '1' then put(b.set, 'expired', '0') end
  write_batch(b, key)
  put(stamped, int(STAMP), id)
  over[#over + 1], over[id] = id, true
  ended.batches = ended.batches + 1
  return { 'settled', 0 }
end

return each_usual(USUAL_FINISH_KEYS, finish)
