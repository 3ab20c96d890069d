-- purge_dead: a dead letter is given up for good: listed no more, and whoever is pending in it ends.
-- KEYS     the shard's, then: batch, its details, its run
-- ARGV     1 batch id, 2 index of the recipient or '' for the batch
-- returns  status (done, none, unreadable), recipients that ended
-- refuses  all, until the server was compared; what is no dead letter; a batch whose states cannot be read

await_comparison()
local id, index = ARGV[1], ARGV[2] ~= '' and num(ARGV[2], 'index') or nil
if not call('HGET', K.dead, dead_field(id, index)) then return { 'none', 0 } end
local b = load_run(string.match(id, '^(.+)%.%d+$') or '', KEYS[OWN + 3])
  and load_batch(id, KEYS[OWN + 1], KEYS[OWN + 2])
if index then
  if b then
    forget_dead(b, index)
    commit(b)
  else
    dead_remove(id, index)
  end
  grow()
  return { 'done', 0 }
end
if not b then return { 'unreadable', 0 } end

-- Records that cannot be read begin anew: whoever they were of may have been sent.
local function forget_pending(_, _, r)
  r.doubts, r.doubt, r.reason = 1, 's', 'n'
end

local function forget_final(_, _, r)
  r.settled_at = NOW
end

local recipients = 0
for at = 0, b.count - 1 do
  local state = b.st[at + 1]
  local pending, known = not is_final(state), pcall(look_at, b, at)
  if pending then recipients = recipients + 1 end
  if not known then
    b.symbols[at + 1] = UNTOUCHED
    change(b, at, nil, pending and forget_pending or forget_final)
  end
end
suspect(b)
for at = 0, b.count - 1 do
  local state = b.st[at + 1]
  if state == I then change(b, at, nil, doubt_not_recorded, 0) end
  if not is_final(b.st[at + 1]) and not run.cancelled then change(b, at, nil, give_up) end
end
put_back(b, 'dead')
write_run()
return { 'done', recipients }
