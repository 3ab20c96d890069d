-- usual_checkpoint: checkpoint, where nothing is special (see usual.lua): no limits, the run and its lane go on, and nothing
-- happened before to those who have an outcome or an intent.
-- KEYS     shard, count, holder, parked, lease, lanes, then see usual.lua
-- ARGV     as checkpoint
-- returns  see usual.lua; of each report status (held), ttl left ms, granted indexes, and none refused
-- refuses  whatever is not usual

local READ = { 's0', 's1', 'm0', 'm1', 'g!', 'q', 'w', 'x', 'v' }

local function checkpoint(ttl, window)
  local id, fence, key, at, intents = next_report()
  if not id then return nil end
  local s0, s1, m0, m1, granted, kept, suspicion, erased, checked = unpack(call('HMGET', key, unpack(READ)))
  if not s0 or suspicion or erased then return nil end
  -- Somebody in it may have to be looked at again, or all of it before an intent.
  if checked and sub(checked, -1) == '!' then return nil end
  if SUPPRESSED and intents ~= '' and (tonumber(checked) or 0) < SUPPRESSED then return nil end
  local h, b = lease_of(id, fence, kept), batch_of(s0, s1, m0, m1)
  if not (h and b and take_outcomes(b, h, at, granted)) then return nil end
  if intents ~= '' then
    h.open = h.open + #intents
    if h.open > window or h.hard_at - now < TRANSACTION_MS_MAX then return nil end
    if granted ~= h.fresh then
      if find(b.m0, '!', 1, true) or find(b.m1, '!', 1, true) then return nil end
      put(b.set, 'g!', h.fresh)
      put(b.set, 'f' .. h.counter, fence)
    end
    if not turn(b, { byte(intents, 1, -1) }, P, UNTOUCHED, I, GRANTED) then return nil end
  end
  if now - h.progress_at <= TRANSACTION_MS_MAX then
    h.expires_at = math.max(h.expires_at, math.min(now + ttl, h.hard_at))
  end
  local moved = is_to_note(h, ttl)
  if moved then call('ZCARD', K.lease) end

  set_states(b)
  put(b.set, 'q', kept_text(h))
  write_batch(b, key)
  if moved then call('ZADD', K.lease, int(h.expires_at), id) end
  return { 'held', math.max(h.expires_at - now, 0), intents, {} }
end

return each_usual(USUAL_CHECKPOINT_KEYS, checkpoint)
