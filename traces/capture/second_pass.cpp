#include "traces/capture/second_pass.h"

#include <fmt/format.h>

#include <algorithm>

#include "traces/error.h"

namespace evictsim::traces::capture {

std::vector<ChunkPass> plan_second_pass(const SecondPassPlan& plan, const std::vector<std::int32_t>& prompt,
                                        const std::function<std::vector<std::int32_t>(const std::string&)>& tokenize) {
  const auto length = static_cast<std::int32_t>(prompt.size());
  const Span range = plan.range.value_or(Span{0, length});
  if (range.first < 0 || range.first >= range.last || range.last > length) {
    throw Error(ErrorCode::invalid_argument, fmt::format("must be a range FIRST:END inside the prompt, 0:{}", length),
                {.parameter = "second-pass-range", .value = fmt::format("{}:{}", range.first, range.last)});
  }
  const auto require_count = [](std::int32_t value, const char* parameter) {
    if (value >= 0) return;
    throw Error(ErrorCode::invalid_argument, "must not be negative",
                {.parameter = parameter, .value = std::to_string(value)});
  };
  require_count(plan.chunk, "second-pass-chunk");
  require_count(plan.tail, "repeat-tail");
  const auto tokens_of = [&](const std::string& text) {
    return text.empty() ? std::vector<std::int32_t>() : tokenize(text);
  };
  const std::vector<std::int32_t> first_request = tokens_of(plan.first_request);
  const std::int32_t step = plan.chunk == 0 ? range.last - range.first : plan.chunk;
  const bool several = step < range.last - range.first;
  const std::vector<std::int32_t> next_request = several ? tokens_of(plan.next_request) : std::vector<std::int32_t>();
  std::vector<ChunkPass> passes;
  const auto at = [&](std::int32_t row) { return prompt.begin() + row; };
  for (std::int32_t first = range.first; first < range.last;) {
    const std::int32_t last = range.last - first > step ? first + step : range.last;
    ChunkPass pass{.chunk = {first, last}, .tokens = passes.empty() ? first_request : next_request};
    if (!passes.empty() && !next_request.empty()) {
      const Span before = passes.back().chunk;
      pass.tokens.insert(pass.tokens.end(), at(std::max(before.first, before.last - plan.tail)), at(before.last));
    }
    pass.tokens.insert(pass.tokens.end(), at(first), at(last));
    passes.push_back(std::move(pass));
    first = last;
  }
  return passes;
}

SecondPass rows_of(const std::vector<ChunkPass>& passes, std::int32_t prompt_length) {
  SecondPass rows;
  for (const ChunkPass& pass : passes) {
    for (std::size_t i = 0; i < pass.tokens.size(); ++i) {
      rows.positions.push_back(prompt_length + static_cast<std::int32_t>(i));
      rows.chunk.push_back(pass.chunk);
    }
  }
  return rows;
}

}  // namespace evictsim::traces::capture
