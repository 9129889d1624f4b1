#include "models/rope.h"

#include <cmath>
#include <string>
#include <utility>

#include "traces/error.h"

namespace evictsim::models {

Rope::Rope(traces::RopeLayout layout, std::vector<double> inv_freq, double attention_scaling)
    : layout_(layout), inv_freq_(std::move(inv_freq)), attention_scaling_(attention_scaling) {
  if (layout_ == traces::RopeLayout::none) inv_freq_.clear();
  if (!(attention_scaling_ > 0)) {
    throw Error(ErrorCode::invalid_value, "must be positive",
                {.dataset = "rope_attention_scaling", .value = std::to_string(attention_scaling_)});
  }
}

Rope Rope::of(const traces::Header& header) {
  return {header.rope_layout, header.inv_freq, header.rope_attention_scaling};
}

std::size_t Rope::first_of_pair(std::size_t pair) const {
  return layout_ == traces::RopeLayout::interleaved ? 2 * pair : pair;
}

std::size_t Rope::second_of_pair(std::size_t pair) const {
  return layout_ == traces::RopeLayout::interleaved ? 2 * pair + 1 : pair + inv_freq_.size();
}

template <typename Real>
void Rope::rotate(std::span<Real> head, double position, double direction, double factor) const {
  for (std::size_t pair = 0; pair < inv_freq_.size(); ++pair) {
    const double angle = position * inv_freq_[pair];
    const double cosine = std::cos(angle) * factor;
    const double sine = std::sin(angle) * factor * direction;
    Real& first = head[first_of_pair(pair)];
    Real& second = head[second_of_pair(pair)];
    const double a = first;
    const double b = second;
    first = static_cast<Real>(a * cosine - b * sine);
    second = static_cast<Real>(b * cosine + a * sine);
  }
}

void Rope::apply(std::span<float> head, double position) const { rotate(head, position, 1.0, attention_scaling_); }
void Rope::apply(std::span<double> head, double position) const { rotate(head, position, 1.0, attention_scaling_); }
void Rope::invert(std::span<float> head, double position) const {
  rotate(head, position, -1.0, 1.0 / attention_scaling_);
}
void Rope::invert(std::span<double> head, double position) const {
  rotate(head, position, -1.0, 1.0 / attention_scaling_);
}

}  // namespace evictsim::models
