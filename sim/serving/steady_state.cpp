#include "sim/serving/steady_state.h"

#include <algorithm>
#include <cmath>

namespace evictsim::sim {
namespace {

/// Sharpness of the bend where memory, no longer the load, limits how many sequences run.
constexpr double limit_sharpness = 8;
/// Arrivals that a request can meet in the queue when arrivals are spread out.
constexpr double spread_arrivals = 4;

/// Never above either value, smooth for the fit.
double smooth_minimum(double value, double limit) {
  return value / std::pow(1 + std::pow(value / limit, limit_sharpness), 1 / limit_sharpness);
}

}  // namespace

ClosedLoopTimes closed_loop_times(const models::StepTime& step_time, const models::EngineConstants& constants,
                                  const ClosedLoop& loop) {
  const double running = std::max(smooth_minimum(loop.concurrency, loop.most_sequences), 1.0);
  const double chunks = std::ceil(loop.prompt_tokens / loop.token_budget);
  models::MeanStepWork chunk;
  chunk.prefill_sequences = 1;
  chunk.prefill_tokens = loop.prompt_tokens / chunks;
  chunk.prefill_context = loop.prompt_tokens * (chunks + 1) / (2 * chunks);
  chunk.prefill_pairs = loop.prompt_tokens * (loop.prompt_tokens + 1) / 2 / chunks;

  double decoding_share = 1;  // of the running sequences; the others are in prefill
  double plain = 0, per_prompt = 0, prefill = 0, per_output_token = 0;
  for (int pass = 0; pass < 2; ++pass) {
    models::MeanStepWork decode;
    decode.decode_sequences = std::max(running * decoding_share, 1.0);
    decode.decode_entries = decode.decode_sequences * loop.entries_read;
    plain = step_time.seconds(decode);
    models::MeanStepWork mixed = chunk;
    mixed.decode_sequences = decode.decode_sequences - 1;
    mixed.decode_entries = mixed.decode_sequences * loop.entries_read;
    prefill = chunks * step_time.seconds(mixed);
    per_prompt = std::max(constants.prefill_interference * (prefill - chunks * plain), 0.0);
    // While a request decodes, every other running one ends once and puts its successor's prompt into a step.
    per_output_token = plain + (running - 1) / loop.output_tokens * per_prompt;
    const double decoding = loop.output_tokens * per_output_token;
    decoding_share = decoding / (decoding + prefill);
  }
  const double busy = running * per_prompt / (running * per_prompt + loop.output_tokens * plain);
  const double other_prompts = busy * per_prompt * std::min((running - 1) / spread_arrivals, 1.0);
  const double running_step = loop.concurrency > 1 ? plain / 2 : 0;
  const double service = prefill + loop.output_tokens * per_output_token;
  // Little's law: as many are in flight as were asked for, but only `running` of them hold memory.
  const double for_memory = service * std::max(loop.concurrency / running - 1, 0.0);
  const double first_wave = constants.first_wave_share * (running - 1) / 2 * per_prompt;
  return {constants.request_seconds + prefill + constants.wait_factor * (other_prompts + running_step) + first_wave +
              loop.queued_share * for_memory,
          per_output_token + (1 - loop.queued_share) * for_memory / loop.output_tokens};
}

}  // namespace evictsim::sim
