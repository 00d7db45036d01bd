"""The two Lua programs that run in Redis. Redis runs each of them atomically.

Two keys in one hash slot hold the log. The hash `head` has `epoch` (random), `number` and `nonce`
of the last row, `first`, the number of the oldest row that is kept, and `floor`, the last row that
was dropped while it still denied something. The stream `rows` has the rows `first`-0 to `number`-0.
"""

from __future__ import annotations

from typing import Final

# Returns the epoch, or begins a new one (`fresh`) if rows are missing. The rows that are left are
# kept, and so are their numbers and nonces.
_CHECKED: Final = """
local head, rows = KEYS[1], KEYS[2]
local fresh = ARGV[1]

local function id_number(entry)
  return entry and tonumber(string.match(entry[1], '^%d+')) or nil
end

-- The number of the next row must be above that of every row that there ever was in the stream.
local function last_id(kept)
  local ask = kept == 0 and redis.pcall or redis.call
  local told = ask('XINFO', 'STREAM', rows)
  if told.err then return '0-0' end  -- there is no stream yet
  for at = 1, #told, 2 do
    if told[at] == 'last-generated-id' then return told[at + 1] end
  end
end

local function checked()
  local known = redis.call('HMGET', head, 'epoch', 'number', 'first')
  local number, first = tonumber(known[2]), tonumber(known[3])
  local kept = redis.call('XLEN', rows)
  local last = last_id(kept)
  if known[1] and number and first and kept == number - first + 1 and last == number .. '-0' then
    return known[1], number, first
  end
  local newest = redis.call('XREVRANGE', rows, '+', '-', 'COUNT', 1)[1]
  local oldest = redis.call('XRANGE', rows, '-', '+', 'COUNT', 1)[1]
  number, first = id_number(newest) or 0, id_number(oldest) or 1
  local nonce = newest and newest[2][2] or ''
  if kept ~= number - first + 1 or last ~= number .. '-0' then
    redis.call('DEL', rows)
    number, first, nonce = 0, 1, ''
  end
  redis.call('HSET', head, 'epoch', fresh, 'number', number, 'first', first, 'nonce', nonce)
  return fresh, number, first
end
"""

# ARGV: a fresh epoch, the maximum number of rows, then nonce, body, signature and end of each row
# (Unix s; 0: never; -1: never, but it may be dropped without becoming the floor). Returns the epoch
# and the number of the last row.
APPEND: Final = (
    _CHECKED
    + """
local epoch, number, first = checked()
local most, now = tonumber(ARGV[2]), tonumber(redis.call('TIME')[1])
local nonce = redis.call('HGET', head, 'nonce')

local function instant(body)
  local read, made = pcall(function() return tonumber(cjson.decode(body).instant) end)
  return read and made or 0
end

local function drop_oldest()
  local entry = redis.call('XRANGE', rows, '-', '+', 'COUNT', 1)[1]
  local fields = entry[2]
  local ends_at = tonumber(fields[10])
  -- A row without an end was not written by us.
  local ended = not ends_at or (ends_at > 0 and ends_at <= now)
  if not ended and number - first + 1 < most then
    return false
  end
  if not ended and ends_at >= 0 then
    local floor = redis.call('HGET', head, 'floor')
    -- A row that was written back may be newer than its invalidation.
    if not floor or instant(cjson.decode(floor)[2]) <= instant(fields[6]) then
      redis.call('HSET', head, 'floor', cjson.encode({fields[2], fields[6], fields[8]}))
    end
  end
  redis.call('XDEL', rows, entry[1])
  first = first + 1
  return true
end

for at = 3, #ARGV, 4 do
  for _ = 1, 10 do
    if first > number or not drop_oldest() then break end
  end
  number = number + 1
  redis.call('XADD', rows, number .. '-0', 'nonce', ARGV[at], 'previous', nonce,
    'body', ARGV[at + 1], 'signature', ARGV[at + 2], 'ends_at', ARGV[at + 3])
  nonce = ARGV[at]
end
redis.call('HSET', head, 'number', number, 'nonce', nonce, 'first', first)
return {epoch, number}
"""
)

# ARGV: a fresh epoch, the number after which to read (-1: from the oldest row), how many rows, and
# the epoch that must be replaced ('' for none). Returns a JSON array: epoch, number, first, nonce
# and floor, then number, nonce, previous, body and signature of each row. It is one string, because
# redis-py takes as long to parse five strings as we take for all the work on one row.
READ: Final = (
    _CHECKED
    + """
local epoch, number, first = checked()
if epoch == ARGV[4] then
  epoch = fresh
  redis.call('HSET', head, 'epoch', epoch)
end
local after = tonumber(ARGV[2])
local known = redis.call('HMGET', head, 'nonce', 'floor')
local answer = {epoch, tostring(number), tostring(first), known[1] or '', known[2] or ''}
if after < number then
  local from = after < 0 and '-' or string.format('%d-0', after + 1)
  for _, entry in ipairs(redis.call('XRANGE', rows, from, '+', 'COUNT', tonumber(ARGV[3]))) do
    local fields = entry[2]
    answer[#answer + 1] = string.match(entry[1], '^%d+')
    for at = 2, 8, 2 do answer[#answer + 1] = fields[at] or '' end
  end
end
return cjson.encode(answer)
"""
)
