-- What is learned late: facts about transmissions, and what follows when the shard went back; prepended after batch.lua.

-- Whoever is pending in a batch of a run from before the shard went back may have been sent what is not known any
-- more, and comes in doubt, once. True: so it was.
local function doubt_unrecorded(b, index, r)
  come_under_suspicion(r)
  if run.hold or run.cancelled or r.doubts >= DOUBTS_MAX then end_as(b, index, r, U) end
end

local function suspect(b)
  if run.epoch >= BASE or num(b.h.e or '1', 'the epoch of a batch') >= BASE then return false end
  local is_settled = true
  for index = 0, b.count - 1 do
    local state = b.st[index + 1]
    if not is_final(state) then is_settled = false end
    if (state == P or state == D) and look_at(b, index).doubt == '' then change(b, index, doubt_unrecorded, doubt_unrecorded) end
  end
  if not is_settled then b.fields.e = int(BASE) end
  return not is_settled
end

local function clear_standing_doubt(r)
  if r.doubt == 's' then
    r.doubts = math.max(r.doubts - 1, 0)
    r.doubt = ''
    if r.doubts == 0 then r.reason = '' end
  end
end

-- What was heard is of one transmission, and what the shard forgot may hold another one. Not of who had ended before:
-- only a person begins those again, and then they are exhausted or unknown.
local function keep_suspicion(b, index, r, before)
  if before == A or before == R or before == S or before == C then return end
  local state = b.st[index + 1]
  if (state == P or state == D) and r.doubt == '' then doubt_unrecorded(b, index, r) end
  if r.reason == '' then r.doubts, r.reason = r.doubts + 1, 'n' end
end

local function learn(b, index, r, state, o, about)
  local counter, fraction = about.counter, about.fraction
  local own_intent = state == I and (IGNORE_FENCES or r.intent == counter)
  about.own_intent = own_intent
  -- What was granted to a fence from before the shard went back may be unknown here.
  local unrecorded = about.lost and r.intent ~= counter
  if o.kind == 'a' then
    if state == A then return 'already' end
    if own_intent or unrecorded then r.attempts = r.attempts + 1 end
    clear_standing_doubt(r)
    if r.first_at == '' then r.first_at = NOW end
    r.code = o.code
    about.detail = true
    r.doubt = ''
    end_as(b, index, r, A)
    return 'applied'
  end
  if own_intent then
    about.detail = true
    settle(b, index, r, state, o, fraction)
    return 'applied'
  end
  if unrecorded and o.kind == 'r' and (state == P or state == D or (state == U and r.doubt == 's')) then
    clear_standing_doubt(r)
    about.detail = true
    settle(b, index, r, state, o, fraction)
    return 'applied'
  end
  local from_doubt = (state == D or state == U) and r.doubt == 's' and (IGNORE_FENCES or r.intent == counter)
  if not from_doubt then return 'already' end
  if o.kind == 'u' then
    r.reason = 'l'
    return 'applied'
  end
  r.attempts = math.max(r.attempts - 1, 0)
  clear_standing_doubt(r)
  r.settled_at = ''
  b.st[index + 1] = P
  about.detail = true
  settle(b, index, r, state, o, fraction)
  -- It ends workers all the same.
  if o.kind == 'w' and b.dead[index] then give_up(b, index, r) end
  return 'applied'
end

local function fact_of(b, index, r, state, o, about)
  local status = learn(b, index, r, state, o, about)
  if status == 'applied' and about.lost then keep_suspicion(b, index, r, state) end
  return status
end

-- What a fact says about who ends workers. That nothing was written, or no reply was read, is what one that ended
-- says of those it was at.
local function weigh_fact(b, o, own_intent)
  if o.kind == 'w' or o.kind == 'u' then
    if own_intent and b.hold then b.fallen[o.index] = true end
    return
  end
  if b.sus then suspicion_outcome(b.sus, o.index) end
  if b.hold then
    if own_intent then b.hold.outcome = 'o' end
    b.fallen[o.index] = nil
  end
  forget_dead(b, o.index)
end

-- A fact about one recipient: 'applied', 'already' or 'refused'.
local function fact(b, fence, o, fraction)
  local counter, epoch = fence_counter(fence)
  local known, lost = b.fields['f' .. counter] or b.h['f' .. counter], epoch < BASE
  if not lost and (not known or fences_differ(known, fence)) then return 'refused' end
  if o.index >= b.count then return 'refused' end
  local about = { counter = counter, fraction = fraction, lost = lost, detail = false }
  local status = change(b, o.index, nil, fact_of, o, about)
  if about.detail then take_detail(b, o.index, o.kind, o.detail) end
  if status == 'applied' then weigh_fact(b, o, about.own_intent) end
  return status
end
