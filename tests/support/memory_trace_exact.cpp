#include "tests/support/memory_trace_exact.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace evictsim::test {
namespace {

std::size_t at(std::int64_t value) { return static_cast<std::size_t>(value); }

double norm(const std::vector<double>& values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
}

}  // namespace

ExactLayer::ExactLayer(const MemoryTrace& trace, std::size_t captured_layer, std::size_t sequence)
    : header_(trace.header),
      info_(trace.sequences[sequence].info),
      tensors_(trace.sequences[sequence].layers[captured_layer]),
      w_o_(trace.w_o.empty() ? nullptr : &trace.w_o[captured_layer]),
      window_(trace.header.sliding_window.empty() ? 0 : trace.header.sliding_window[captured_layer]) {}

std::vector<double> ExactLayer::logits(int query_head, std::int32_t row) const {
  const int dim = header_.head_dim;
  const int kv_head = query_head / header_.group_size();
  const auto place = std::find(tensors_.q_rows.begin(), tensors_.q_rows.end(), row) - tensors_.q_rows.begin();
  const float* query =
      tensors_.q.data() + (query_head * static_cast<std::int64_t>(tensors_.q_rows.size()) + place) * dim;
  std::vector<double> logits(at(length()), -std::numeric_limits<double>::infinity());
  for (std::int32_t j = 0; j <= row; ++j) {
    if (window_ > 0 && info_.positions[at(row)] - info_.positions[at(j)] >= window_) continue;
    const float* key = tensors_.k.data() + (kv_head * static_cast<std::int64_t>(length()) + j) * dim;
    double dot = 0;
    for (int c = 0; c < dim; ++c) dot += static_cast<double>(query[c]) * static_cast<double>(key[c]);
    dot *= header_.attention_scale;
    logits[at(j)] = header_.logit_softcap > 0 ? header_.logit_softcap * std::tanh(dot / header_.logit_softcap) : dot;
  }
  return logits;
}

std::vector<double> ExactLayer::weights(int query_head, std::int32_t row, const std::vector<bool>& resident) const {
  std::vector<double> weights = logits(query_head, row);
  double largest = -std::numeric_limits<double>::infinity();
  for (std::size_t j = 0; j < weights.size(); ++j) {
    if (!resident.empty() && !resident[j]) weights[j] = -std::numeric_limits<double>::infinity();
    largest = std::max(largest, weights[j]);
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  for (double& weight : weights) weight /= sum;
  return weights;
}

std::vector<double> ExactLayer::output(int query_head, const std::vector<double>& weights) const {
  const int dim = header_.head_dim;
  const int kv_head = query_head / header_.group_size();
  std::vector<double> output(at(dim), 0.0);
  for (std::int32_t j = 0; j < length(); ++j) {
    for (int c = 0; c < dim; ++c) {
      output[at(c)] +=
          weights[at(j)] *
          static_cast<double>(tensors_.v[at((kv_head * static_cast<std::int64_t>(length()) + j) * dim + c)]);
    }
  }
  return output;
}

ExactLayer::Metrics ExactLayer::metrics(int query_head, std::int32_t row, const std::vector<bool>& resident,
                                        const std::vector<std::int32_t>& useful) const {
  const std::vector<double> full = weights(query_head, row);
  const std::vector<double> cut = weights(query_head, row, resident);
  Metrics result;
  double useful_mass = 0;
  for (const std::int32_t j : useful) useful_mass += cut[at(j)];
  result.dilution = useful.empty() ? std::nan("") : 1 - useful_mass;
  for (std::size_t j = 0; j < full.size(); ++j) {
    if (resident[j]) result.retained_mass += full[j];
    if (cut[j] > 0) result.entropy -= cut[j] * std::log(cut[j]);
  }
  const std::vector<double> full_output = output(query_head, full);
  result.difference = output(query_head, cut);
  for (std::size_t c = 0; c < full_output.size(); ++c) result.difference[c] -= full_output[c];
  result.output_error = norm(result.difference) / norm(full_output);
  return result;
}

std::vector<double> ExactLayer::mass(int query_head, const std::vector<std::int32_t>& rows) const {
  std::vector<double> mass(at(prompt_length()), 0.0);
  for (const std::int32_t row : rows) {
    const std::vector<double> full = weights(query_head, row);
    for (std::size_t j = 0; j < mass.size(); ++j) mass[j] += full[j];
  }
  return mass;
}

std::vector<std::int32_t> ExactLayer::useful(int query_head, std::int32_t row, const std::vector<std::int32_t>& rows,
                                             std::size_t count) const {
  std::vector<std::int32_t> others;
  for (const std::int32_t other : rows) {
    if (other != row) others.push_back(other);
  }
  const std::vector<double> rest = mass(query_head, others);
  std::vector<std::int32_t> order(rest.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return rest[at(a)] > rest[at(b)]; });
  order.resize(std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

double ExactLayer::projected_squared(const std::vector<double>& x) const {
  double squared = 0;
  for (int i = 0; i < header_.hidden_size; ++i) {
    double y = 0;
    for (std::size_t c = 0; c < x.size(); ++c) y += static_cast<double>((*w_o_)[at(i) * x.size() + c]) * x[c];
    squared += y * y;
  }
  return squared;
}

std::vector<std::int32_t> ExactLayer::decode_rows() const {
  return {std::lower_bound(tensors_.q_rows.begin(), tensors_.q_rows.end(), info_.prompt_length), tensors_.q_rows.end()};
}

std::vector<bool> resident_set(const std::vector<std::int32_t>& kept, std::int32_t prompt_length, std::int32_t length) {
  std::vector<bool> resident(at(length), false);
  for (const std::int32_t row : kept) resident[at(row)] = true;
  std::fill(resident.begin() + prompt_length, resident.end(), true);
  return resident;
}

}  // namespace evictsim::test
