-- Reserve slots for upstream calls of one quota, for all workers together. All waiting calls of a worker in one trip.
-- KEYS  1 the quota's state (msgpack)  2 what is known of all quotas (hash)  3 when that changed (sorted set)
-- ARGV  1 quota key  2 JSON:
--   l {meter: [limit, window ms]}       every limit to hold
--   s {meter: used}                     what the provider has just said is used up of its own limits
--   p ms                                pause all calls this long (0: no)
--   n text or ""                        tell the other workers this about the quota
--   f [[meter, slot ms, delta]...]      corrections of earlier slots
--   a [[longest wait ms, {meter: amount}]...]   slots asked for, most urgent first
--   x {n, {meter: amount}}              slots to lend, only if there is plenty
-- Returns {now ms, slots lent, answer 1..n}: ms from now until the slot, or -(ms until there would be one).
--
-- A meter is a ring of N buckets, a fiftieth longer in all than the provider's window, so that a call that is late by
-- less is still within the limit there. While less than SMOOTH of the limit is used, a slot is at once; above that,
-- slots are spaced by the highest even rate that the window can keep up from here on, so that no burst is followed by
-- a minute of nothing. What others use of the same limit (the provider counts more than we sent) fades evenly.
local N, LONGER, SMOOTH, LEND = 120, 1.02, 0.5, 0.4
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local told = cjson.decode(ARGV[2])
local packed = redis.call('GET', KEYS[1])
local state = packed and cmsgpack.unpack(packed) or {last = 0, pause = 0, m = {}}
if told.p > 0 and now + told.p > state.pause then state.pause = now + told.p end

local floor, max, min = math.floor, math.max, math.min
local meters, longest = {}, 60000
for name, limit in pairs(told.l) do
  local m = state.m[name]
  if not m or m.w ~= limit[2] then m = {w = limit[2], b = {}, tat = 0, f = 0, ft = 0} end
  m.name, m.limit, m.width = name, limit[1], limit[2] * LONGER / N
  local oldest, sum = floor(now / m.width) - N, 0
  for j, amount in pairs(m.b) do
    if j < oldest or amount <= 0 then m.b[j] = nil else sum = sum + amount end
  end
  m.sum = sum
  meters[#meters + 1] = m
  meters[name] = m
  longest = max(longest, limit[2])
end

for _, fix in ipairs(told.f) do
  local m = meters[fix[1]]
  if m then
    local j = floor(fix[2] / m.width)
    local had = m.b[j]
    if had then
      m.b[j] = max(0, had + fix[3])
      m.sum = m.sum + m.b[j] - had
    end
    -- the next slot was spaced from what this one was counted as
    if m.tat > now then m.tat = max(now, m.tat + fix[3] * (m.per or 0)) end
    if fix[3] < 0 and fix[2] > now and fix[2] == state.last then state.last = now end
  end
end

for name, used in pairs(told.s) do
  local m = meters[name]
  if m then
    local here, own = floor(now / m.width), 0
    for j, amount in pairs(m.b) do if j <= here then own = own + amount end end
    m.f, m.ft = max(0, used - own), now
  end
end

local function foreign(m, t)
  if m.f <= 0 then return 0 end
  return max(0, m.f * (1 - (t - m.ft) / m.w))
end

-- What the window still counts at `t` (not before now), in-between reservations included.
local function counted(m, t)
  local sum, oldest = m.sum, floor(t / m.width) - N
  for j = floor(now / m.width) - N, oldest - 1 do sum = sum - (m.b[j] or 0) end
  return sum
end

-- The earliest instant from `t` on at which `amount` fits, and whether it is beyond what needs no smoothing.
local function earliest(m, amount, t)
  local sum = counted(m, t)
  if sum + foreign(m, t) + amount <= m.limit * SMOOTH then return t, false end
  t = max(t, m.tat)
  sum = counted(m, t)
  local j = floor(t / m.width) - N
  while sum + foreign(m, t) + amount > m.limit + 1e-6 do
    local expires = (j + N + 1) * m.width
    local room = m.limit - amount - sum
    if room >= 0 then
      local faded = m.ft + m.w * (1 - room / m.f)
      if faded <= expires then return max(t, faded), true end
    end
    sum, t, j = sum - (m.b[j] or 0), expires, j + 1
  end
  return t, true
end

-- The highest rate (per ms) that can be kept up from `t` on, whatever the window still counts then.
local function rate(m, t)
  local here = floor(t / m.width)
  local room, others = m.limit - counted(m, t) - foreign(m, t), foreign(m, t)
  local lowest = math.huge
  for j = here - N, here do
    local ahead = (j + N + 1) * m.width - t
    if ahead > 0 then lowest = min(lowest, (room + min(others, m.f * ahead / m.w)) / ahead) end
    room = room + (m.b[j] or 0)
  end
  return lowest
end

local function put(m, amount, t)
  local j = floor(t / m.width)
  m.b[j] = (m.b[j] or 0) + amount
  m.sum = m.sum + amount
end

-- Who asks for no less than one who was refused can come no sooner: no need to search again.
local late, late_for = 0, nil
local function is_no_less(amounts)
  for _, m in ipairs(meters) do
    if (amounts[m.name] or 0) < (late_for[m.name] or 0) then return false end
  end
  return true
end

local answers = {now, 0}
for i, ask in ipairs(told.a) do
  local t = max(now, state.pause, state.last)
  local smooth = {}
  if late_for and late - now > ask[1] and is_no_less(ask[2]) then
    t = late
  else
    for _, m in ipairs(meters) do
      local amount = min(ask[2][m.name] or 0, m.limit)
      if amount > 0 then t, smooth[m.name] = earliest(m, amount, t) end
    end
  end
  t = math.ceil(t)
  if t - now > ask[1] then
    answers[i + 2] = -max(1, t - now)
    late, late_for = t, ask[2]
  else
    for _, m in ipairs(meters) do
      local amount = min(ask[2][m.name] or 0, m.limit)
      if amount > 0 then
        if smooth[m.name] then
          m.per = min(1 / max(rate(m, t), 1e-9), m.w)
          m.tat = max(m.tat, t - m.width) + min(amount * m.per, m.w)
        end
        put(m, amount, t)
      end
    end
    state.last = max(state.last, t)
    answers[i + 2] = t - now
  end
end

if told.x and state.pause <= now and state.last <= now then
  local n = told.x[1]
  for _, m in ipairs(meters) do
    local amount = told.x[2][m.name] or 0
    if amount > 0 then n = min(n, floor((m.limit * LEND - counted(m, now) - foreign(m, now)) / amount)) end
  end
  if n > 0 and #meters > 0 then
    for _, m in ipairs(meters) do
      local amount = told.x[2][m.name] or 0
      if amount > 0 then put(m, n * amount, now) end
    end
    answers[2] = n
  end
end

local kept = {last = state.last, pause = state.pause, m = {}}
for _, m in ipairs(meters) do
  kept.m[m.name] = {w = m.w, b = m.b, tat = m.tat, per = m.per, f = m.f, ft = m.ft}
end
redis.call('SET', KEYS[1], cmsgpack.pack(kept), 'PX',
  math.ceil(2 * longest + max(0, state.pause - now)))
if told.n ~= '' then
  local day_ago = now - 86400000
  local stale = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', day_ago, 'LIMIT', 0, 50)
  for _, key in ipairs(stale) do
    redis.call('HDEL', KEYS[2], key)
    redis.call('ZREM', KEYS[3], key)
  end
  redis.call('HSET', KEYS[2], ARGV[1], told.n)
  redis.call('ZADD', KEYS[3], now, ARGV[1])
  redis.call('EXPIRE', KEYS[2], 90000)
  redis.call('EXPIRE', KEYS[3], 90000)
end
return answers
