-- replay_dead: a dead letter becomes pending again, in a new generation.
-- KEYS     the shard's, then: batch, its details, its run, its payload
-- ARGV     1 batch id, 2 index of the recipient or '' for the batch, 3: 1 even if it may have been sent
-- returns  status (done, none, in_doubt, cancelled, unreadable), recipients
-- refuses  all, until the server was compared; what is no dead letter; one in doubt, unless asked for; a cancelled run;
--          a batch that cannot be read

await_comparison()
local id, index = ARGV[1], ARGV[2] ~= '' and num(ARGV[2], 'index') or nil
if not call('HGET', K.dead, dead_field(id, index)) then return { 'none', 0 } end
if not load_run(string.match(id, '^(.+)%.%d+$') or '', KEYS[OWN + 3]) then
  -- Without its key it is being forgotten.
  return { call('EXISTS', KEYS[OWN + 3]) == 0 and 'none' or 'unreadable', 0 }
end
if run.cancelled then return { 'cancelled', 0 } end
local b = load_batch(id, KEYS[OWN + 1], KEYS[OWN + 2])
if not b or call('EXISTS', KEYS[OWN + 4]) == 0 then return { 'unreadable', 0 } end
local generation = num(call('HGET', KEYS[OWN + 3], 'generation') or '0', 'the generation') + 1
local recipients = 1
if index then
  if not may_reopen(b, index, ARGV[3] == '1') then return { 'in_doubt', 0 } end
  local from = place_of(b)
  forget_dead(b, index)
  change(b, index, nil, reopen)
  if from == 'leased' or from == 'dead' then commit(b) else put_back(b, from) end
else
  recipients = 0
  suspect(b)
  for at = 0, b.count - 1 do
    -- Whose record cannot be read is an error here, before the first write.
    look_at(b, at)
    if not is_final(b.st[at + 1]) then recipients = recipients + 1 end
  end
  -- Set aside while somebody was in intent.
  doubt_intents(b, 0)
  put_back(b, 'dead')
end
call('HSET', KEYS[OWN + 3], 'generation', int(generation))
write_run()
return { 'done', recipients }
