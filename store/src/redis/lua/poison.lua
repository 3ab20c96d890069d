-- Who ends workers: what the end of a lease says about the recipients of its batch. Writes nothing; prepended
-- before batch.lua.
-- The same as `embedded/model/poison.rs`, which says why.
--
-- A suspicion is kept as `strikes|unheard|first|last|suspects`, suspects with commas between. One that is damaged is
-- forgotten: the strikes come again.

local STRIKES_MAX = 3
local UNHEARD_MAX = 10

-- Indexes with commas between, as a set.
local function set_of(text)
  local set = {}
  if not text then return set end
  for index in string.gmatch(text, '%d+') do set[tonumber(index)] = true end
  return set
end

local function list_of(set)
  local list = {}
  for index in pairs(set) do list[#list + 1] = index end
  table.sort(list)
  return list
end

local function set_text(set)
  return table.concat(list_of(set), ',')
end

local function no_suspicion()
  return { strikes = 0, unheard = 0, suspects = {} }
end

local function suspicion_of(text)
  if not text then return nil end
  local strikes, unheard, first, last, suspects =
    string.match(text, '^(%d%d?)|(%d%d?)|(%d?%d?)|(%d?%d?)|([%d,]*)$')
  if not strikes then return nil end
  return { strikes = tonumber(strikes), unheard = tonumber(unheard), first = tonumber(first), last = tonumber(last),
    suspects = set_of(suspects) }
end

-- '' for none.
local function suspicion_text(s)
  local suspects = set_text(s.suspects)
  if s.strikes == 0 and s.unheard == 0 and suspects == '' then return '' end
  return int(math.min(s.strikes, 99)) .. '|' .. int(s.unheard) .. '|' .. (s.first and int(s.first) or '') .. '|'
    .. (s.last and int(s.last) or '') .. '|' .. suspects
end

local function is_suspect(s)
  return s.strikes >= STRIKES_MAX
end

local function clear_suspicion(s)
  s.strikes, s.unheard, s.suspects, s.first, s.last = 0, 0, {}, nil, nil
end

-- An expiry that counts: 'nothing', 'strike', 'batch', or 'recipient' and its index. `lease`: had_outcome, was_heard,
-- fallen (a set).
local function suspicion_expired(s, lease)
  if not next(lease.fallen) then
    s.unheard = lease.was_heard and 0 or s.unheard + 1
    if s.unheard < UNHEARD_MAX then return 'nothing' end
    clear_suspicion(s)
    return 'batch'
  end
  s.unheard = 0
  if lease.had_outcome and not is_suspect(s) then return 'nothing' end
  s.strikes = s.strikes + 1
  local both = {}
  for index in pairs(lease.fallen) do
    if s.suspects[index] then both[index] = true end
  end
  if next(both) then
    s.suspects = both
  else
    for index in pairs(lease.fallen) do s.suspects[index] = true end
  end
  local list = list_of(s.suspects)
  if is_suspect(s) and #list == 1 then
    clear_suspicion(s)
    return 'recipient', list[1]
  end
  return 'strike'
end

-- This recipient got as far as an outcome. Strikes are held against somebody.
local function suspicion_outcome(s, index)
  if is_suspect(s) then s.suspects[index] = nil else s.suspects = {} end
  if not next(s.suspects) then s.strikes = 0 end
  s.unheard = 0
end

-- The batch goes back: what its next lease is for. `is_pending` of an index.
local function suspicion_put_back(s, is_pending)
  local left = {}
  for index in pairs(s.suspects) do
    if is_pending(index) then left[index] = true end
  end
  s.suspects = left
  local list = list_of(left)
  if #list == 0 then s.strikes = 0 end
  s.first, s.last = nil, nil
  if #list > 0 and is_suspect(s) then s.first, s.last = list[1], list[math.ceil(#list / 2)] end
end

-- Whether the lease is for this recipient.
local function is_offered(s, index)
  return not (s and s.first and s.last) or (s.first <= index and index <= s.last)
end

-- What is held against the batch and its recipients: a field each, and none for nothing.
local function write_suspicion(b, set, gone)
  if not (b.sus or b.h.z or b.h.k or next(b.dead) or next(b.fallen)) then return end
  local texts = { w = b.sus and suspicion_text(b.sus) or '', z = set_text(b.dead), k = set_text(b.fallen) }
  for field, text in pairs(texts) do
    if text == '' then
      if b.h[field] then gone[#gone + 1] = field end
    elseif b.h[field] ~= text then
      set[#set + 1] = field
      set[#set + 1] = text
    end
  end
end
