#include "traces/capture/damage/closed_run.h"

#include <algorithm>

#include "analysis/forwarding_observer.h"
#include "analysis/run_accumulator.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

/// Keeps what every point keeps of the prompt.
class CutKeeper final : public analysis::ForwardingObserver {
 public:
  CutKeeper(sim::ReplayObserver& next, std::vector<sim::PromptCut>& cuts) : ForwardingObserver(next), cuts_(cuts) {}
  void prompt_cut(sim::PromptCut&& cut) override {
    cuts_.push_back(cut);
    ForwardingObserver::prompt_cut(std::move(cut));
  }

 private:
  std::vector<sim::PromptCut>& cuts_;
};

/// False where it changes nothing, so that the engine's own numbers stay.
bool add(const models::Matrix& change, std::span<float> output) {
  if ((change.array() == 0.0F).all()) return false;
  Eigen::Map<models::Matrix>(output.data(), change.rows(), change.cols()) += change;
  return true;
}

}  // namespace

OpenLoop replay_trace(const Reader& reader, const sim::ReplayPlan& plan, const sim::ReplayOptions& options,
                      const std::atomic<bool>& stop) {
  OpenLoop open;
  std::vector<Reader> readers;
  readers.emplace_back(reader.path());
  analysis::RunAccumulator accumulator(plan, analysis::evidence_spans(readers), {},
                                       [&](analysis::SequenceResult&& result) {
                                         open.rows = std::move(result.rows);
                                         open.points = std::move(result.points);
                                         open.skipped = std::move(result.skipped);
                                         open.failed = std::move(result.failed);
                                       });
  CutKeeper keeper(accumulator, open.cuts);
  sim::replay(readers, plan, options, keeper, stop);
  return open;
}

std::vector<std::int32_t> token_ids(const Reader& reader) {
  const std::optional<Tensor> stored = reader.read_channel(0, Channel::token_ids);
  if (!stored) {
    throw Error(ErrorCode::missing_data, "without token ids the model cannot read the sequence again",
                {.file = reader.path().string(), .dataset = "token_ids"});
  }
  std::vector<std::int32_t> tokens;
  for (const float id : stored->data) tokens.push_back(static_cast<std::int32_t>(id));
  return tokens;
}

ClosedRun::ClosedRun(const CapturedModel& model, const Reader& reader, const sim::ReplayPlan& plan,
                     const sim::ReplayOptions& options, OpenLoop& open, const std::set<std::size_t>& policies,
                     const RunControl& control)
    : loop_(reader, 0, plan, options, std::move(open.cuts), policies, *control.stop),
      continuation_(model, token_ids(reader), reader.sequences().front().prompt_length, loop_.needs_input(), control) {
  const std::vector<std::int32_t> tokens = token_ids(reader);
  const auto vocabulary = static_cast<std::size_t>(model.header().vocab_size);
  reference_.emplace(continuation_.run(), vocabulary,
                     std::vector(tokens.begin() + reader.sequences().front().prompt_length + 1, tokens.end()));
  const auto again = continuation_.run();
  if (!std::equal(again.begin(), again.end(), reference_->logits().begin())) {
    throw Error(ErrorCode::unsupported,
                "the engine gives other logits when the same rows are run again behind the same prompt, so changes of "
                "its attention cannot be told from its own",
                {.file = model.path().string()});
  }
}

sim::DecodeRows ClosedRun::rows_of(std::size_t layer, const LayerRows& rows) const {
  return {.q = rows.query, .k = rows.key, .v = rows.value, .x = continuation_.layer_input(layer)};
}

NextTokenChange ClosedRun::run(std::size_t point) {
  for (sim::Index runs = 0; runs <= loop_.decode_rows(); ++runs) {
    const auto logits = continuation_.run([&](std::size_t layer, const LayerRows& rows, std::span<float> output) {
      return add(loop_.change(point, layer, rows_of(layer, rows)), output);
    });
    if (!loop_.splits_change(point)) return reference_->compare(logits);
  }
  throw Error(ErrorCode::policy_failure,
              "how it splits the budget over layers still changed after as many runs as rows: it looks ahead");
}

NextTokenChange ClosedRun::run_layer(std::size_t point, std::size_t layer) {
  return reference_->compare(continuation_.run([&](std::size_t at, const LayerRows& rows, std::span<float> output) {
    return at == layer && add(loop_.change(point, layer, rows_of(layer, rows)), output);
  }));
}

bool ClosedRun::overwrite(std::size_t layer, const LayerRows& rows, std::span<float> output) {
  const models::Matrix attention = loop_.attention(layer, rows_of(layer, rows));
  std::copy_n(attention.data(), attention.size(), output.begin());
  return true;
}

NextTokenChange ClosedRun::run_uncut() {
  return reference_->compare(continuation_.run([&](std::size_t layer, const LayerRows& rows, std::span<float> output) {
    return overwrite(layer, rows, output);
  }));
}

NextTokenChange ClosedRun::run_layer_uncut(std::size_t layer) {
  return reference_->compare(continuation_.run([&](std::size_t at, const LayerRows& rows, std::span<float> output) {
    return at == layer && overwrite(layer, rows, output);
  }));
}

}  // namespace evictsim::traces::capture
