#include "sim/replay/most_attended.h"

#include <algorithm>
#include <limits>

#include <tbb/parallel_for.h>

#include "models/attention.h"

namespace evictsim::sim {
namespace {

/// Columns compared at once.
constexpr Index lanes = 16;
using Lanes = Eigen::Array<float, lanes, 1>;
/// Columns per query head that are searched first, to know where the others may begin.
constexpr Index pilots = 2;

struct Candidate {
  float mass;
  std::int32_t row;
};

bool better(const Candidate& a, const Candidate& b) { return a.mass != b.mass ? a.mass > b.mass : a.row < b.row; }

/// The largest entries of one column so far: what may still be among them waits in a buffer, which is cut back when it
/// is full.
class Largest {
 public:
  void begin(Index count, models::EntryRange visible, float threshold) {
    count_ = static_cast<std::size_t>(count);
    visible_ = visible;
    threshold_ = threshold;
    waiting_.clear();
    waiting_.reserve(2 * count_);
  }
  [[nodiscard]] float threshold() const { return threshold_; }
  void offer(float mass, std::int32_t row) {
    if (row < visible_.first || row >= visible_.last) return;
    waiting_.push_back({mass, row});
    if (waiting_.size() == 4 * count_) cut();
  }
  /// Leaves the best `count`, and lets no smaller one in from now on.
  void cut() {
    if (waiting_.size() < count_) return;
    std::nth_element(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(count_ - 1), waiting_.end(),
                     better);
    waiting_.resize(count_);
    threshold_ = waiting_.back().mass;
  }
  [[nodiscard]] const std::vector<Candidate>& best() const { return waiting_; }
  /// Whether fewer than `count` visible entries came in although there are more.
  [[nodiscard]] bool lacks_any() const {
    return waiting_.size() < std::min(count_, static_cast<std::size_t>(visible_.last - visible_.first));
  }

 private:
  std::size_t count_ = 0;
  models::EntryRange visible_;
  float threshold_ = 0;
  std::vector<Candidate> waiting_;
};

/// The columns of one KV head's probabilities, [G * B].
class ColumnSearch {
 public:
  ColumnSearch(const Matrix& probability, Index entries, Index count, std::span<const models::EntryRange> visible)
      : probability_(probability),
        entries_(entries),
        count_(count),
        visible_(visible),
        columns_(visible.size()),
        thresholds_(visible.size()) {}

  /// The best `count` of every column; columns come in heads of `rows`.
  std::vector<Largest>& run(Index rows) {
    for (Index first = 0; first < width(); first += rows) {
      // Rows of one head attend alike: half of the least that entered the pilots' sets lets few others in.
      float guess = std::numeric_limits<float>::max();
      for (Index pilot = 0; pilot < std::min(pilots, rows); ++pilot) {
        guess = std::min(guess, searched(first + pilot * (rows - 1) / (pilots - 1), -1) / 2);
      }
      for (Index column = first; column < first + rows; ++column) begin(column, guess);
    }
    scan();
    for (Index column = 0; column < width(); ++column) {
      Largest& largest = columns_[static_cast<std::size_t>(column)];
      if (largest.lacks_any()) searched(column, -1);  // the guess was too high
      largest.cut();
    }
    return columns_;
  }

 private:
  [[nodiscard]] Index width() const { return static_cast<Index>(columns_.size()); }

  void begin(Index column, float threshold) {
    const auto place = static_cast<std::size_t>(column);
    columns_[place].begin(count_, visible_[place], threshold);
    thresholds_[place] = threshold;
  }

  /// Searches one column alone; what an entry needs to be among its best.
  float searched(Index column, float threshold) {
    begin(column, threshold);
    const auto place = static_cast<std::size_t>(column);
    for (Index row = visible_[place].first; row < visible_[place].last; ++row) offer(row, column);
    columns_[place].cut();
    return columns_[place].threshold();
  }

  void offer(Index row, Index column) {
    const auto place = static_cast<std::size_t>(column);
    const float mass = probability_(row, column);
    if (mass < thresholds_[place]) return;
    columns_[place].offer(mass, static_cast<std::int32_t>(row));
    thresholds_[place] = columns_[place].threshold();
  }

  /// Offers every entry to every column that it may be among the best of; most are turned away `lanes` at once.
  void scan() {
    const Index whole = width() / lanes * lanes;
    for (Index row = 0; row < entries_; ++row) {
      const float* masses = probability_.data() + row * probability_.cols();
      for (Index first = 0; first < whole; first += lanes) {
        // Above or at a threshold: the largest difference says so for all lanes in a few instructions.
        const Lanes above =
            Eigen::Map<const Lanes>(masses + first) - Eigen::Map<const Lanes>(thresholds_.data() + first);
        if (above.maxCoeff() < 0) continue;
        for (Index lane = 0; lane < lanes; ++lane) offer(row, first + lane);
      }
      for (Index column = whole; column < width(); ++column) offer(row, column);
    }
  }

  const Matrix& probability_;
  Index entries_, count_;
  std::span<const models::EntryRange> visible_;
  std::vector<Largest> columns_;   ///< [G * B]
  std::vector<float> thresholds_;  ///< [G * B] of `columns_`, side by side
};

}  // namespace

MostAttended::MostAttended(const LayerData& layer, const Tile& tile, Index count)
    : rows_(tile.size()),
      count_(std::min(count, tile.entries)),
      entries_(static_cast<std::size_t>(layer.geometry().num_query_heads * rows_ * count_)),
      sizes_(static_cast<std::size_t>(layer.geometry().num_query_heads * rows_)) {
  const std::vector<models::EntryRange> visible = layer.group_visibility(tile.rows);
  tbb::parallel_for(0, layer.geometry().num_kv_heads, [&](int kv_head) {
    ColumnSearch search(tile.heads[static_cast<std::size_t>(kv_head)].probability, tile.entries, count_, visible);
    Index place = kv_head * std::ssize(visible);
    for (const Largest& largest : search.run(rows_)) {
      sizes_[static_cast<std::size_t>(place)] = static_cast<std::int32_t>(largest.best().size());
      std::transform(largest.best().begin(), largest.best().end(), entries_.begin() + place * count_,
                     [](const Candidate& candidate) { return candidate.row; });
      ++place;
    }
  });
}

void MostAttended::evicted_from_chain(std::span<const std::uint16_t> level, const CacheHead& head,
                                      std::span<Matrix> shares) const {
  // Entries by the number of members that evict them; decode rows stay.
  std::vector<std::int32_t> evicted(shares.size() + 1);
  for (int h = head.first_query_head; h < head.first_query_head + head.query_heads; ++h) {
    for (Index r = 0; r < rows_; ++r) {
      const auto entries = at(h, r);
      std::fill(evicted.begin(), evicted.end(), 0);
      for (const std::int32_t row : entries) {
        const auto place = static_cast<std::size_t>(row);
        ++evicted[place < level.size() ? level[place] : 0];
      }
      std::int32_t sum = 0;
      for (std::size_t member = shares.size(); member-- > 0;) {
        sum += evicted[member + 1];
        shares[member](r, h) = static_cast<float>(sum) / static_cast<float>(entries.size());
      }
    }
  }
}

void MostAttended::evicted_by_row(const Tile& tile, std::span<const std::int32_t> last_row, const CacheHead& head,
                                  Matrix& shares) const {
  for (int h = head.first_query_head; h < head.first_query_head + head.query_heads; ++h) {
    for (Index r = 0; r < rows_; ++r) {
      const auto entries = at(h, r);
      const auto evicted = std::count_if(entries.begin(), entries.end(), [&](std::int32_t row) {
        return last_row[static_cast<std::size_t>(row)] < tile.rows[static_cast<std::size_t>(r)];
      });
      shares(r, h) = static_cast<float>(evicted) / static_cast<float>(entries.size());
    }
  }
}

float MostAttended::missing(int query_head, Index r, std::span<const std::int32_t> attended) const {
  const auto entries = at(query_head, r);
  const auto found = std::count_if(entries.begin(), entries.end(), [&](std::int32_t row) {
    return std::binary_search(attended.begin(), attended.end(), row);
  });
  return static_cast<float>(std::ssize(entries) - found) / static_cast<float>(entries.size());
}

}  // namespace evictsim::sim
