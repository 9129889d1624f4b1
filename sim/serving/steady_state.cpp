#include "sim/serving/steady_state.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace evictsim::sim {
namespace {

/// Sharpness of the bend where memory, no longer the load, limits how many sequences run.
constexpr double limit_sharpness = 24;
/// The same of the bend where computing prompts limits a disaggregated deployment: its queue is not empty below that.
constexpr double queue_sharpness = 8;
/// At most, for the number of decoding sequences to settle.
constexpr int decoding_passes = 64;
constexpr double settled = 1e-9;
/// Arrivals that a request can meet in the queue when arrivals are spread out.
constexpr double spread_arrivals = 4;

double chunks_of(const ClosedLoopLoad& loop) { return std::ceil(loop.prompt_tokens / loop.token_budget); }

/// Of `prompts` prompts at once, one of the steps that compute them.
models::MeanStepWork mean_chunk(const ClosedLoopLoad& loop, double prompts) {
  const double chunks = chunks_of(loop);
  models::MeanStepWork chunk;
  chunk.prefill_sequences = prompts;
  chunk.prefill_tokens = prompts * loop.prompt_tokens / chunks;
  chunk.prefill_context = prompts * loop.prompt_tokens * (chunks + 1) / (2 * chunks);
  chunk.prefill_pairs = prompts * loop.prompt_tokens * (loop.prompt_tokens + 1) / 2 / chunks;
  return chunk;
}

/// Never above either value, smooth for the fit.
double smooth_minimum(double value, double limit) {
  return value / std::pow(1 + std::pow(value / limit, limit_sharpness), 1 / limit_sharpness);
}

/// Never below either value.
double smooth_maximum(double one, double other) {
  return std::pow(std::pow(one, queue_sharpness) + std::pow(other, queue_sharpness), 1 / queue_sharpness);
}

}  // namespace

ClosedLoopTimes closed_loop_times(const models::StepTime& step_time, const models::EngineConstants& constants,
                                  const ClosedLoopLoad& loop) {
  const double running = std::max(smooth_minimum(loop.concurrency, loop.most_sequences), 1.0);
  const double chunks = chunks_of(loop);
  // Schedulers let copies of attention compute prompts in the same steps.
  const models::MeanStepWork chunk = mean_chunk(loop, std::min(step_time.shape().attention_copies, running));

  double decoding_share = 1;  // of the running sequences; the others are in prefill
  double plain = 0, per_prompt = 0, prefill = 0, per_output_token = 0;
  for (int pass = 0; pass < 2; ++pass) {
    models::MeanStepWork decode;
    decode.decode_sequences = std::max(running * decoding_share, 1.0);
    decode.decode_entries = decode.decode_sequences * loop.entries_read;
    plain = step_time.seconds(decode);
    models::MeanStepWork mixed = chunk;
    mixed.decode_sequences = std::max(decode.decode_sequences - mixed.prefill_sequences, 0.0);
    mixed.decode_entries = mixed.decode_sequences * loop.entries_read;
    prefill = chunks * step_time.seconds(mixed);
    per_prompt = std::max(constants.prefill_interference * (prefill - chunks * plain) / mixed.prefill_sequences, 0.0);
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

ClosedLoopTimes disaggregated_times(const models::StepTime& prefill_time, const models::StepTime& decode_time,
                                    const models::EngineConstants& constants, const ClosedLoopLoad& loop,
                                    const PrefillReplicas& replicas) {
  // Every copy of attention has a prompt of its own, and all wait for the slowest.
  const double prefill = chunks_of(loop) * prefill_time.seconds(mean_chunk(loop, replicas.prompts_at_once));
  const double between_prompts = prefill / (replicas.per_decode_replica * replicas.prompts_at_once);
  const double unqueued = prefill + replicas.transfer_seconds;

  double decoding = std::min(loop.concurrency, loop.most_sequences);
  double per_output_token = 0, cycle = 0;
  for (int pass = 0; pass < decoding_passes; ++pass) {
    models::MeanStepWork decode;
    decode.decode_sequences = std::max(decoding, 1.0);
    decode.decode_entries = decode.decode_sequences * loop.entries_read;
    per_output_token = decode_time.seconds(decode);
    const double answer = loop.output_tokens * per_output_token;
    // Little's law: the requests in flight pass every `cycle`; no faster than one of them alone would, than their
    // prompts can be computed, and than the memory of the replicas that decode lets them.
    cycle = std::max(smooth_maximum(unqueued + answer, loop.concurrency * between_prompts),
                     loop.concurrency / loop.most_sequences * answer);
    const double before = std::exchange(decoding, loop.concurrency * answer / cycle);
    if (std::abs(decoding - before) <= settled * decoding) break;
  }
  const double waiting = cycle - unqueued - loop.output_tokens * per_output_token;
  const double busy = loop.concurrency * between_prompts / cycle;
  const double first_wave = constants.first_wave_share * (1 - busy) * (loop.concurrency - 1) / 2 * between_prompts;
  return {constants.request_seconds + unqueued + waiting + first_wave, per_output_token};
}

}  // namespace evictsim::sim
