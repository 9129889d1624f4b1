#pragma once
/// \file
/// States at regular times, in bounded memory: when there are too many, every second one is dropped.

#include <cstddef>
#include <vector>

#include "sim/serving/serving.h"

namespace evictsim::sim {

class SampleSeries {
 public:
  SampleSeries(Time period, std::size_t most) : period_(period), most_(most) {}

  /// Samples all due times below `time`, at which nothing changed since the last call. `state` makes the sample of a
  /// time.
  template <typename State>
  void sample_before(Time time, State state) {
    while (next_ < time) {
      if (samples_.size() == most_) {
        thin_out();
        continue;
      }
      samples_.push_back(state(next_));
      if (period_ > end_of_time - next_) return;
      next_ += period_;
    }
  }
  [[nodiscard]] Time period() const { return period_; }
  [[nodiscard]] std::vector<ServingSample> take() { return std::move(samples_); }

 private:
  /// Keeps samples 0, 2, 4...; the next one due is then that of an even number too.
  void thin_out() {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < samples_.size(); i += 2) samples_[kept++] = samples_[i];
    samples_.resize(kept);
    period_ = period_ > end_of_time / 2 ? end_of_time : 2 * period_;
    next_ = samples_.back().time + period_;
  }

  Time period_;
  std::size_t most_;
  Time next_ = 0;
  std::vector<ServingSample> samples_;
};

}  // namespace evictsim::sim
