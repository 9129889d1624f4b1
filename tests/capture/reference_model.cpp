#include "tests/capture/reference_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace evictsim::tests {
namespace {

using Vector = std::vector<double>;

class Reference {
 public:
  Reference(const TinyModel& model, const TinyWeights& weights) : model_(model), weights_(weights) {}

  ReferencePass run(std::span<const std::int32_t> tokens, const Attends& attends, const Attended& attended) const {
    std::vector<Vector> stream;
    const std::vector<float>& embedding = weights_.at("token_embd.weight");
    for (const std::int32_t token : tokens) {
      const auto first = embedding.begin() + static_cast<std::ptrdiff_t>(token) * model_.hidden;
      stream.emplace_back(first, first + model_.hidden);
    }
    ReferencePass pass;
    for (int layer = 0; layer < model_.layers; ++layer) {
      pass.projected.push_back(attention(layer, stream, attends, attended));
      for (std::size_t row = 0; row < stream.size(); ++row) add(stream[row], pass.projected.back()[row]);
      for (Vector& x : stream) add(x, feed_forward(layer, x));
    }
    for (const Vector& x : stream) pass.logits.push_back(times("output.weight", norm("output_norm.weight", x)));
    return pass;
  }

 private:
  static void add(Vector& to, const Vector& what) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += what[i];
  }
  [[nodiscard]] static std::string name(int layer, const char* tensor) {
    return fmt::format("blk.{}.{}.weight", layer, tensor);
  }
  [[nodiscard]] Vector times(const std::string& tensor, const Vector& x) const {
    const std::vector<float>& weight = weights_.at(tensor);
    Vector y(weight.size() / x.size(), 0.0);
    for (std::size_t r = 0; r < y.size(); ++r) {
      for (std::size_t c = 0; c < x.size(); ++c) y[r] += static_cast<double>(weight[r * x.size() + c]) * x[c];
    }
    return y;
  }
  [[nodiscard]] Vector norm(const std::string& tensor, const Vector& x) const {
    double square = 0;
    for (const double value : x) square += value * value;
    const double factor = 1 / std::sqrt(square / static_cast<double>(x.size()) + static_cast<double>(1e-5F));
    const std::vector<float>& weight = weights_.at(tensor);
    Vector y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * factor * static_cast<double>(weight[i]);
    return y;
  }
  /// Pairs (2i, 2i + 1) of every head.
  void rotate(Vector& heads, std::size_t position) const {
    const auto width = static_cast<std::size_t>(model_.head_dim);
    for (std::size_t first = 0; first < heads.size(); first += width) {
      for (std::size_t pair = 0; pair < width / 2; ++pair) {
        const double angle =
            static_cast<double>(position) * std::pow(static_cast<double>(model_.rope_base),
                                                     -2.0 * static_cast<double>(pair) / static_cast<double>(width));
        double& a = heads[first + 2 * pair];
        double& b = heads[first + 2 * pair + 1];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = turned;
      }
    }
  }
  [[nodiscard]] std::vector<Vector> attention(int layer, const std::vector<Vector>& stream, const Attends& attends,
                                              const Attended& attended) const {
    std::vector<Vector> q, k, v, projected;
    for (std::size_t row = 0; row < stream.size(); ++row) {
      const Vector x = norm(name(layer, "attn_norm"), stream[row]);
      q.push_back(times(name(layer, "attn_q"), x));
      k.push_back(times(name(layer, "attn_k"), x));
      v.push_back(times(name(layer, "attn_v"), x));
      rotate(q.back(), row);
      rotate(k.back(), row);
    }
    const auto width = static_cast<std::size_t>(model_.head_dim);
    for (std::size_t row = 0; row < stream.size(); ++row) {
      Vector heads(q[row].size(), 0.0);
      Vector mean(row + 1, 0.0);
      for (int head = 0; head < model_.query_heads; ++head) {
        const int kv_head = head / (model_.query_heads / model_.kv_heads);
        const std::size_t at = static_cast<std::size_t>(head) * width,
                          kv_at = static_cast<std::size_t>(kv_head) * width;
        double sum = 0;
        Vector weights(row + 1, 0.0);
        for (std::size_t entry = 0; entry <= row; ++entry) {
          if (!attends(layer, kv_head, row, entry)) continue;
          double dot = 0;
          for (std::size_t c = 0; c < width; ++c) dot += q[row][at + c] * k[entry][kv_at + c];
          const double weight = std::exp(dot / std::sqrt(static_cast<double>(width)));
          sum += weights[entry] = weight;
          for (std::size_t c = 0; c < width; ++c) heads[at + c] += weight * v[entry][kv_at + c];
        }
        for (std::size_t c = 0; c < width; ++c) heads[at + c] /= sum;
        for (std::size_t entry = 0; entry <= row; ++entry) mean[entry] += weights[entry] / sum / model_.query_heads;
      }
      if (attended) attended(layer, row, mean);
      projected.push_back(times(name(layer, "attn_output"), heads));
    }
    return projected;
  }
  [[nodiscard]] Vector feed_forward(int layer, const Vector& stream) const {
    const Vector x = norm(name(layer, "ffn_norm"), stream);
    Vector gate = times(name(layer, "ffn_gate"), x);
    const Vector up = times(name(layer, "ffn_up"), x);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return times(name(layer, "ffn_down"), gate);
  }

  const TinyModel& model_;
  const TinyWeights& weights_;
};

/// Probabilities and their logarithms.
Vector log_softmax(const Vector& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - largest);
  Vector logs;
  for (const double logit : logits) logs.push_back(logit - largest - std::log(sum));
  return logs;
}

}  // namespace

ReferencePass reference_pass(const TinyModel& model, const TinyWeights& weights, std::span<const std::int32_t> tokens,
                             const Attends& attends, const Attended& attended) {
  return Reference(model, weights).run(tokens, attends, attended);
}

double reference_kl(const std::vector<double>& a, const std::vector<double>& b) {
  const Vector log_a = log_softmax(a), log_b = log_softmax(b);
  double kl = 0;
  for (std::size_t i = 0; i < log_a.size(); ++i) kl += std::exp(log_a[i]) * (log_a[i] - log_b[i]);
  return kl;
}

}  // namespace evictsim::tests
