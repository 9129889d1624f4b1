#include "traces/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <numeric>
#include <string>

#include "traces/manifest.h"
#include "traces/trace_file.h"

namespace evictsim::traces {
namespace {

using hdf5::Guard;
using hdf5::Node;

/// Attention of one query over the entries it may see, written to `output` [d]; float64.
void attend(const Header& header, std::size_t window, const float* query, const float* k, const float* v,
            std::size_t row, std::vector<double>& weights, double* output) {
  const auto width = static_cast<std::size_t>(header.head_dim);
  const std::size_t first = window > 0 && row + 1 > window ? row + 1 - window : 0;
  weights.assign(row + 1 - first, 0.0);
  for (std::size_t entry = first; entry <= row; ++entry) {
    double logit = 0;
    for (std::size_t component = 0; component < width; ++component) {
      logit += static_cast<double>(query[component]) * static_cast<double>(k[entry * width + component]);
    }
    logit *= header.attention_scale;
    if (header.logit_softcap > 0) logit = header.logit_softcap * std::tanh(logit / header.logit_softcap);
    weights[entry - first] = logit;
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  std::fill_n(output, width, 0.0);
  for (std::size_t entry = first; entry <= row; ++entry) {
    const double weight = weights[entry - first] / sum;
    for (std::size_t component = 0; component < width; ++component) {
      output[component] += weight * static_cast<double>(v[entry * width + component]);
    }
  }
}

class Verifier {
 public:
  Verifier(const TraceFile& trace, const VerifyOptions& options, const Report& report)
      : trace_(trace), options_(options), report_(report) {}

  void check_tensors() {
    for (std::size_t index = 0; index < trace_.header.layers.size(); ++index) {
      w_o_ = {};
      attempt(report_, [&] { read_w_o(trace_.header.layers[index]); });
      for (std::size_t sequence = 0; sequence < trace_.sequences.size(); ++sequence) {
        if (!trace_.entries[sequence].layers[index].valid) continue;
        attempt(report_, [&] { check_layer(sequence, index); });
      }
    }
  }

 private:
  void read_w_o(int layer) {
    Node dataset;
    {
      const Guard guard;
      const Node& weights = trace_.weights;
      if (!weights.has(layer_name(layer)) || !weights.group(layer_name(layer)).has("w_o")) return;
      dataset = weights.group(layer_name(layer)).dataset("w_o");
      dataset.require_shape(weight_shape(LayerWeight::w_o, trace_.header), "[D, Hq*d]");
    }
    w_o_ = read_tensor(dataset);
  }

  void check_layer(std::size_t sequence, std::size_t index) {
    Node k, v, q;
    {
      const Guard guard;
      const Node group = trace_.root.group("sequences")
                             .group(trace_.sequences[sequence].name)
                             .group(layer_name(trace_.header.layers[index]));
      k = group.dataset("k");
      v = group.dataset("v");
      q = group.dataset("q");
    }
    bool finite = attempt(report_, [&] { read_head_major(k, k_); });
    finite &= attempt(report_, [&] { read_head_major(v, v_); });
    finite &= attempt(report_, [&] { read_head_major(q, q_); });
    if (finite) check_outputs(sequence, index, q);
    check_other_passes(sequence, index);
  }

  /// Tensors of the second pass and of packets are finite.
  void check_other_passes(std::size_t sequence, std::size_t index) {
    std::vector<Node> tensors;
    {
      const Guard guard;
      const Node group = trace_.root.group("sequences").group(trace_.sequences[sequence].name);
      const SequenceEntry& entry = trace_.entries[sequence];
      const std::string layer = layer_name(trace_.header.layers[index]);
      const auto take = [&](const Node& pass, std::initializer_list<const char*> names) {
        for (const char* name : names) {
          if (pass.has(name)) tensors.push_back(pass.dataset(name));
        }
      };
      if (entry.layers[index].has_second_pass) take(group.group("second_pass").group(layer), {"q", "k"});
      for (const PacketSet set : packet_sets) {
        const PacketEntry& packets = entry.packets[static_cast<std::size_t>(set)];
        if (!packets.layout || !packets.layers[index].rows) continue;
        take(group.group("packets").group(to_string(set)).group(layer),
             {"k", "v", "q", "after_k", "after_v", "after_q"});
      }
    }
    for (const Node& tensor : tensors) attempt(report_, [&] { read_head_major(tensor, k_); });
  }

  /// Softmax over k, times v, times w_o must be finite for the sampled rows.
  void check_outputs(std::size_t sequence, std::size_t index, const Node& q) {
    const Header& header = trace_.header;
    const auto width = static_cast<std::size_t>(header.head_dim);
    const auto heads = static_cast<std::size_t>(header.num_query_heads);
    const auto group_size = static_cast<std::size_t>(header.group_size());
    const auto length = static_cast<std::size_t>(trace_.sequences[sequence].length);
    const std::size_t rows = q_.size() / (heads * width);
    const LayerEntry& entry = trace_.entries[sequence].layers[index];
    const std::size_t window =
        header.sliding_window.empty() ? 0 : static_cast<std::size_t>(header.sliding_window[index]);
    const std::size_t samples = std::min(rows, static_cast<std::size_t>(std::max(options_.sampled_rows, 0)));
    std::vector<double> weights;
    std::vector<double> output(heads * width);
    for (std::size_t sample = 0; sample < samples; ++sample) {
      const std::size_t place = samples == 1 ? rows - 1 : sample * (rows - 1) / (samples - 1);
      const std::size_t row = entry.query_rows ? static_cast<std::size_t>((*entry.query_rows)[place]) : place;
      for (std::size_t head = 0; head < heads; ++head) {
        const std::size_t kv = head / group_size * length * width;
        attend(header, window, q_.data() + (head * rows + place) * width, k_.data() + kv, v_.data() + kv, row, weights,
               output.data() + head * width);
      }
      if (!all_finite(output)) {
        throw q.error(ErrorCode::invalid_value, "recomputed attention times v and w_o must be finite",
                      fmt::format("row {}", row));
      }
    }
  }

  [[nodiscard]] bool all_finite(const std::vector<double>& output) const {
    const auto fits = [](double value) { return std::isfinite(static_cast<float>(value)); };
    if (!std::all_of(output.begin(), output.end(), fits)) return false;
    for (std::size_t row = 0; row * output.size() < w_o_.data.size(); ++row) {
      const float* weights = w_o_.data.data() + row * output.size();
      double sum = 0;
      for (std::size_t column = 0; column < output.size(); ++column)
        sum += static_cast<double>(weights[column]) * output[column];
      if (!fits(sum)) return false;
    }
    return true;
  }

  const TraceFile& trace_;
  const VerifyOptions& options_;
  const Report& report_;
  Tensor w_o_;
  std::vector<float> k_, v_, q_;
};

void verify_file(const std::filesystem::path& path, const VerifyOptions& options, const Report& report) {
  TraceFile trace;
  if (load(trace, path, report) && options.tensors) Verifier(trace, options, report).check_tensors();
}

}  // namespace

std::vector<Fault> verify(const std::filesystem::path& path, const VerifyOptions& options) {
  std::vector<Fault> faults;
  const Report report = [&faults](const Error& error) {
    faults.push_back({error.code(), error.context().file, error.context().dataset, error.message(), error.what()});
  };
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    verify_file(path, options, report);
    return faults;
  }
  attempt(report, [&] {
    const Manifest manifest = read_shards(path);
    for (const Shard& record : manifest.model_records) attempt(report, [&] { check_shard(path, record); });
    for (const Shard& shard : manifest.shards) {
      if (attempt(report, [&] { check_shard(path, shard); })) verify_file(path / shard.name, options, report);
    }
  });
  return faults;
}

}  // namespace evictsim::traces
