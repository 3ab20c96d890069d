-- Common to reconcile and reconcile_index; prepended after settle.lua.
--
-- One round goes over everything in the shard, step by step, whoever makes the steps. `round` has where it is; the
-- number of the step makes sure that each is made once.

local repairs

-- Of this call, after `begin_batch`.
local function begin_round()
  repairs = {}
end

local function repaired(kind, about)
  repairs[#repairs + 1] = kind
  repairs[#repairs + 1] = about
end

-- Whether this call makes the step.
local function is_next_step(step)
  return (call('HGET', K.round, 'step') or '0') == step
end

-- What is damaged here only makes the round begin anew.
local function end_step(step, ...)
  local number = string.match(step, '^%d+$') and #step < 15 and tonumber(step) or 0
  call('HSET', K.round, 'step', int(number + 1), 'at', NOW, ...)
end
