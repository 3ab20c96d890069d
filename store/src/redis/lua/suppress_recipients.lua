-- suppress_recipients: recipients of a batch end because they are not to be sent to, and the batch is checked.
-- KEYS     the shard's, then: batch, its details, its run
-- ARGV     1 batch id, 2 fence ('' for a batch without a lease), 3 number of the set it was checked at, 4 number of recipients,
--          then index and code of each
-- returns  status (done, lost), then index and letter of each who ended by it
-- refuses  all, until the server was compared; a fence that is not current; a batch that is leased, if no fence is given, or
--          settled, or dead

await_comparison()
local id, fence, checked = ARGV[1], ARGV[2], num(ARGV[3], 'the number of a set')
local b = load_run(string.match(id, '^(.+)%.%d+$') or '', KEYS[OWN + 3])
  and load_batch(id, KEYS[OWN + 1], KEYS[OWN + 2])
if not b then return { 'lost' } end
local from = place_of(b)
if fence == '' then
  if from ~= 'ready' and from ~= 'delayed' then return { 'lost' } end
elseif not b.hold or b.hold.is_stale or fences_differ(b.hold.fence, fence) then
  return { 'lost' }
end

local function suppress(_, index, r, _, code)
  if r.reason ~= '' then return end_as(b, index, r, U) end
  r.code = code
  b.detail[index] = ''
  end_as(b, index, r, S)
end

local answer, again = { 'done' }, b.again
suspect(b)
for n = 1, num(ARGV[4], 'recipients') do
  local index, code = num(ARGV[3 + n * 2], 'index'), ARGV[4 + n * 2]
  local state = b.st[index + 1]
  if state == P or state == D then
    change(b, index, nil, suppress, code)
    answer[#answer + 1] = index
    answer[#answer + 1] = string.char(b.st[index + 1])
  elseif state == I then
    again = true
  end
end
b.checked, b.again = math.max(b.checked, checked), again
if b.checked > 0 or again then b.fields.v, b.gone.v = int(b.checked) .. (again and '!' or ''), nil end
if from == 'leased' then commit(b) else put_back(b, from) end
write_run()
return answer
