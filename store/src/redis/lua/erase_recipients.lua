-- erase_recipients: recipients of a batch end, and nothing of them is kept but their states.
-- KEYS     the shard's, then: batch, its details, its run, its payload
-- ARGV     1 batch id, 2 indexes erased before, 3 those that are to be, 4 those after this call, 5 those whose reply
--          texts go as well (lists with commas), 6 the payload's name, 7 the payload
-- returns  status (done, changed, gone), how many were pending and ended
-- refuses  all, until the server was compared; a batch that is not as it was looked at; one that cannot be read

await_comparison()
local id, known, after, name, payload = ARGV[1], ARGV[2], ARGV[4], ARGV[6], ARGV[7]
local b = load_run(string.match(id, '^(.+)%.%d+$') or '', KEYS[OWN + 3])
  and load_batch(id, KEYS[OWN + 1], KEYS[OWN + 2])
if not b then return { 'gone', 0 } end
local erased = set_text(b.erased)
if erased ~= known then return { erased == after and 'done' or 'changed', 0 } end
if b.retired ~= (payload == '') or (b.h.payload or '') ~= name then return { 'changed', 0 } end
-- Whoever looked saw it.
if not b.retired and call('EXISTS', KEYS[OWN + 4]) == 0 then return { 'changed', 0 } end
local all = set_of(after)
for index in pairs(all) do
  if index >= b.count then return { 'changed', 0 } end
end
local from, ended = place_of(b), 0
suspect(b)
b.erased = all
for _, index in ipairs(list_of(set_of(ARGV[3]))) do
  local state = b.st[index + 1]
  if state == P or state == D then
    change(b, index, cancel_pending, cancel_pending)
    ended = ended + 1
  end
  forget_dead(b, index)
  b.detail[index] = ''
end
for index in pairs(set_of(ARGV[5])) do b.detail[index] = '' end
if after ~= '' then b.fields.x = after end
local moves = from == 'ready' or from == 'delayed'
if from == 'settled' then
  -- Its history may be on its way to a segment as it was: another stamp refuses that.
  moves = not b.retired or call('ZSCORE', K.to_retire, id)
elseif from == 'dead' then
  moves = string.find(states_of(b), '^[^pid]*$') ~= nil
end
if moves then put_back(b, from) else commit(b) end
if not b.retired then call('SET', KEYS[OWN + 4], payload) end
write_run()
return { 'done', ended }
