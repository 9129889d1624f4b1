#include <algorithm>
#include <cmath>
#include <numeric>

#include "policies/kv_records.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

enum class RecordScore { max, mean, per_head };

/// The newest tokens stay exact in HBM; every older one becomes a record of a few bytes on a slower tier. Records are
/// searched with the current queries, and the best are attended as decoded, for that row only.
class InfiniteKv : public Placement {
 public:
  explicit InfiniteKv(const Parameters& parameters)
      : hot_(parameters.integer("hot")),
        sinks_(parameters.integer("sinks")),
        recall_(parameters.integer("recall")),
        cadence_(parameters.integer("cadence")),
        chunk_(parameters.integer("chunk")),
        per_layer_(parameters.choice("scope") == "per_layer"),
        chunked_(parameters.choice("search") == "chunked"),
        exact_values_(parameters.choice("value") == "exact"),
        remapped_(parameters.choice("positions") == "remapped"),
        tier_(parameters.choice("tier") == "host" ? Tier::host : Tier::disk) {
    const std::string& score = parameters.choice("score");
    score_ = score == "max" ? RecordScore::max : score == "mean" ? RecordScore::mean : RecordScore::per_head;
    const std::string& codec = parameters.choice("codec");
    layout_ = {.codec = codec == "auto"       ? RecordLayout::Codec::automatic
                        : codec == "rotation" ? RecordLayout::Codec::rotation
                        : codec == "low_rank" ? RecordLayout::Codec::low_rank
                                              : RecordLayout::Codec::exact,
               .bytes = parameters.integer("record_bytes"),
               .holds_values = !exact_values_};
    if (remapped_ && score_ == RecordScore::per_head) {
      throw Error(ErrorCode::invalid_argument, "a key has one position; choose score=max or score=mean",
                  {.parameter = "positions", .value = "remapped"});
    }
  }

  void begin(const PlacementView& layer) override {
    const models::Geometry& geometry = layer.hot().geometry();
    fit(layer.budget().entries);
    keys_.resize(static_cast<std::size_t>(geometry.num_kv_heads));
    values_.resize(keys_.size());
    moved_keys_.resize(remapped_ ? keys_.size() : 0);
    const int heads_of_owner = per_layer_ ? geometry.num_kv_heads : 1;
    for (int first = 0; first < geometry.num_kv_heads; first += heads_of_owner) {
      owners_.push_back({.first = first,
                         .count = heads_of_owner,
                         .records = KvRecords(layout_, layer, first, heads_of_owner, layer.hot().generator(0))});
    }
    chosen_.resize(static_cast<std::size_t>(geometry.num_query_heads));
    encode(layer);
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    const Index encoded = encode(layer);
    for (const Owner& owner : owners_) {
      attended.traffic.written[tier_] += static_cast<double>(encoded * owner.records.record_bytes());
      if (exact_values_) attended.traffic.written[Tier::disk] += value_bytes(layer, owner, encoded);
    }
    const bool searches = steps_++ % cadence_ == 0;
    for (Owner& owner : owners_) {
      if (searches) search(layer, owner, attended);
      if (remapped_) move(layer, owner);
    }
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const QueryHeads queries = layer.hot().query_heads(head);
      for (int i = queries.first; i < queries.first + queries.count; ++i) {
        const std::vector<std::int32_t>& recalled = chosen_[static_cast<std::size_t>(i)];
        std::erase_if(attended.rows[static_cast<std::size_t>(i)], [&](std::int32_t row) {
          return is_cold(row) && !std::binary_search(recalled.begin(), recalled.end(), row);
        });
      }
      const std::vector<std::int32_t> rows = attended_rows(layer, head, attended);
      const Index recalled = std::count_if(rows.begin(), rows.end(), [&](std::int32_t row) { return is_cold(row); });
      count_hits_and_misses(layer, head, searches ? recalled : 0, attended);
    }
  }

  [[nodiscard]] models::MatrixView attended_keys(const PlacementView& layer, int head) const override {
    const auto place = static_cast<std::size_t>(kv_head_of(layer, head));
    return (remapped_ ? moved_keys_ : keys_)[place].view();
  }
  [[nodiscard]] models::MatrixView attended_values(const PlacementView& layer, int head) const override {
    return values_[static_cast<std::size_t>(kv_head_of(layer, head))].view();
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    TierBytes bytes;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const auto entries = layer.hot().entries(head);
      bytes[Tier::hbm] += exact_bytes(
          layer, std::count_if(entries.begin(), entries.end(), [&](std::int32_t row) { return !is_cold(row); }));
    }
    for (const Owner& owner : owners_) {
      bytes[tier_] += static_cast<double>(owner.records.size() * owner.records.record_bytes());
      bytes[Tier::hbm] += static_cast<double>(owner.records.shared_bytes());
      bytes[tier_] += static_cast<double>(chunks(owner) * chunk_mean_bytes(layer, owner));
      if (exact_values_) bytes[Tier::disk] += value_bytes(layer, owner, owner.records.size());
    }
    return bytes;
  }

 private:
  /// One log of records: the layer's, or a KV head's.
  struct Owner {
    int first = 0;  ///< KV head
    int count = 1;
    KvRecords records;
    std::vector<std::vector<Eigen::VectorXd>> chunk_sums = {};  ///< [chunk][KV head] of decoded keys
  };

  /// Where the budget holds less than sinks, hot and recalled entries together: at most a quarter for sinks, and of the
  /// rest at most half (but one) for the newest.
  void fit(Index budget) {
    if (sinks_ + hot_ + recall_ <= budget) return;
    sinks_ = std::min(sinks_, budget / 4);
    hot_ = std::min(hot_, std::max<Index>(1, (budget - sinks_) / 2));
    recall_ = std::min(recall_, budget - sinks_ - hot_);
  }

  [[nodiscard]] bool is_cold(Index row) const { return row >= sinks_ && row < cold_end_; }

  [[nodiscard]] static double value_bytes(const PlacementView& layer, const Owner& owner, Index records) {
    return exact_bytes(layer, records * owner.count) / 2;
  }
  [[nodiscard]] Index chunks(const Owner& owner) const {
    return chunked_ ? (owner.records.size() + chunk_ - 1) / chunk_ : 0;
  }
  [[nodiscard]] static Index chunk_mean_bytes(const PlacementView& layer, const Owner& owner) {
    return Index{owner.count} * layer.hot().geometry().head_dim * layer.component_bytes();
  }

  /// Makes records of what has left the hot window; answers with how many per owner.
  Index encode(const PlacementView& layer) {
    for (std::size_t head = 0; head < keys_.size(); ++head) {
      keys_[head].follow(layer.keys(static_cast<int>(head)));
      values_[head].follow(layer.values(static_cast<int>(head)));
    }
    const Index end = std::max(sinks_, layer.hot().seen() - hot_);
    const Index begin = std::max(sinks_, cold_end_);
    for (Owner& owner : owners_) {
      for (Index row = begin; row < end; ++row) {
        owner.records.append(layer, static_cast<std::int32_t>(row), keys_, values_);
        add_to_chunk(owner, row);
      }
    }
    cold_end_ = end;
    return end - begin;
  }

  void add_to_chunk(Owner& owner, Index row) {
    if (!chunked_) return;
    if ((row - sinks_) % chunk_ == 0) {
      const auto width = std::ssize(keys_.front().row(row));
      owner.chunk_sums.emplace_back(static_cast<std::size_t>(owner.count), Eigen::VectorXd::Zero(width));
    }
    for (int i = 0; i < owner.count; ++i) {
      const auto key = std::as_const(keys_[static_cast<std::size_t>(owner.first + i)]).row(row);
      owner.chunk_sums.back()[static_cast<std::size_t>(i)] +=
          Eigen::Map<const Eigen::VectorXf>(key.data(), std::ssize(key)).cast<double>();
    }
  }

  /// Chooses records for the query heads that read the owner.
  void search(const PlacementView& layer, Owner& owner, AttendedEntries& attended) {
    const models::Geometry& geometry = layer.hot().geometry();
    const int first = owner.first * geometry.group_size();
    const int count = owner.count * geometry.group_size();
    std::vector<std::vector<int>> choosers;  // query heads that choose together
    for (int head = first; head < first + count; ++head) {
      if (choosers.empty() || score_ == RecordScore::per_head) choosers.emplace_back();
      choosers.back().push_back(head);
    }
    std::vector<std::uint8_t> is_recalled(static_cast<std::size_t>(owner.records.size()), 0);
    std::vector<std::uint8_t> is_scanned(is_recalled.size(), 0);  // once, whoever chooses
    for (const std::vector<int>& heads : choosers) {
      const std::vector<std::int32_t> candidates = candidate_rows(layer, owner, heads);
      for (const std::int32_t row : candidates) is_scanned[static_cast<std::size_t>(row - sinks_)] = 1;
      std::vector<std::vector<double>> scores;
      for (const int head : heads) {
        const models::MatrixView keys = keys_[static_cast<std::size_t>(geometry.kv_head_of(head))].view();
        std::vector<double>& row = scores.emplace_back();
        for (const std::int32_t candidate : candidates) row.push_back(dot(layer.query(head), keys, candidate));
      }
      std::vector<std::int32_t> rows;
      for (const Index place : best_places(agreed(scores), recall_)) {
        rows.push_back(candidates[static_cast<std::size_t>(place)]);
        is_recalled[static_cast<std::size_t>(rows.back() - sinks_)] = 1;
      }
      for (const int head : heads) chosen_[static_cast<std::size_t>(head)] = rows;
    }
    const Index scanned = std::count(is_scanned.begin(), is_scanned.end(), 1);
    attended.traffic.scanned[tier_] += static_cast<double>(scanned * owner.records.record_bytes());
    if (chunked_) {
      attended.traffic.scanned[tier_] += static_cast<double>(chunks(owner) * chunk_mean_bytes(layer, owner));
    }
    const Index recalled = std::count(is_recalled.begin(), is_recalled.end(), 1);
    attended.traffic.recalled[tier_] += static_cast<double>(recalled * owner.records.record_bytes());
    if (exact_values_) attended.traffic.recalled[Tier::disk] += value_bytes(layer, owner, recalled);
  }

  [[nodiscard]] std::vector<double> agreed(const std::vector<std::vector<double>>& scores) const {
    return agree(score_ == RecordScore::mean ? GroupChoice::mean : GroupChoice::max, scores);
  }

  /// All cold rows, or those of the chunks whose mean key scores best, at least twice as many as are recalled.
  [[nodiscard]] std::vector<std::int32_t> candidate_rows(const PlacementView& layer, const Owner& owner,
                                                         const std::vector<int>& heads) const {
    std::vector<std::int32_t> rows;
    if (!chunked_) {
      rows.resize(static_cast<std::size_t>(owner.records.size()));
      std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(sinks_));
    } else {
      std::vector<std::vector<double>> scores;
      for (const int head : heads) {
        const auto query = layer.query(head);
        const Eigen::VectorXd vector =
            Eigen::Map<const Eigen::VectorXf>(query.data(), std::ssize(query)).cast<double>();
        const auto own = static_cast<std::size_t>(layer.hot().geometry().kv_head_of(head) - owner.first);
        std::vector<double>& row = scores.emplace_back();
        for (Index chunk = 0; chunk < chunks(owner); ++chunk) {
          const auto size = std::min(chunk_, owner.records.size() - chunk * chunk_);
          row.push_back(vector.dot(owner.chunk_sums[static_cast<std::size_t>(chunk)][own]) / static_cast<double>(size));
        }
      }
      const Index wanted = (2 * recall_ + chunk_ - 1) / chunk_ + 1;
      for (const Index chunk : best_places(agreed(scores), wanted)) {
        for (Index i = chunk * chunk_; i < std::min((chunk + 1) * chunk_, owner.records.size()); ++i) {
          rows.push_back(static_cast<std::int32_t>(sinks_ + i));
        }
      }
    }
    return rows;
  }

  /// Turns the recalled keys of an owner to positions right before the hot window, and the sinks' before those.
  void move(const PlacementView& layer, const Owner& owner) {
    const auto positions = layer.hot().positions();
    const std::vector<std::int32_t>& recalled =
        chosen_[static_cast<std::size_t>(owner.first * layer.hot().geometry().group_size())];
    std::vector<std::int32_t> rows(static_cast<std::size_t>(std::min(sinks_, layer.hot().seen())));
    std::iota(rows.begin(), rows.end(), 0);
    rows.insert(rows.end(), recalled.begin(), recalled.end());
    if (cold_end_ <= sinks_) rows.clear();  // nothing has left: the sinks stand right before the hot window
    const double hot_begin = rows.empty() ? 0.0 : positions[static_cast<std::size_t>(cold_end_)];
    for (int head = owner.first; head < owner.first + owner.count; ++head) {
      const auto place = static_cast<std::size_t>(head);
      moved_keys_[place].follow(layer.keys(head));
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto key = std::as_const(keys_[place]).row(rows[i]);
        std::vector<double> turned(key.begin(), key.end());
        layer.hot().rope().invert(std::span(turned), positions[static_cast<std::size_t>(rows[i])]);
        layer.hot().rope().apply(std::span(turned), hot_begin - static_cast<double>(rows.size() - i));
        std::transform(turned.begin(), turned.end(), moved_keys_[place].row(rows[i]).begin(),
                       [](double component) { return static_cast<float>(component); });
      }
    }
  }

  Index hot_;
  Index sinks_;
  Index recall_;
  Index cadence_;
  Index chunk_;
  bool per_layer_;
  bool chunked_;
  bool exact_values_;
  bool remapped_;
  Tier tier_;
  RecordScore score_ = RecordScore::max;
  RecordLayout layout_;
  Index steps_ = 0;
  Index cold_end_ = 0;  ///< rows before it, behind the sinks, are records
  std::vector<Owner> owners_;
  std::vector<ChangedRows> keys_, values_;         ///< [KV head] exact where hot, decoded where cold
  std::vector<ChangedRows> moved_keys_;            ///< [KV head] where positions are remapped
  std::vector<std::vector<std::int32_t>> chosen_;  ///< [query head] rows recalled
};

const Registration registration(
    {.name = "infinitekv",
     .sentence = "InfiniteKV-like, codec assumed: older tokens become searchable records of 104 bytes on the host.",
     .citation = "announcement of InfiniteKV, r/LocalLLaMA, 2026; codec, search and recall are our inference",
     .parameters = {integer_parameter("hot", "256", 1, 1e9, "newest tokens, exact in HBM"),
                    integer_parameter("sinks", "0", 0, 1e9, "first tokens, exact in HBM"),
                    integer_parameter("record_bytes", "104", 16, 65536, "of a record"),
                    choice_parameter("scope", {"per_layer", "per_kv_head"}, "what a record covers"),
                    integer_parameter("recall", "256", 0, 1e9, "records recalled per row"),
                    integer_parameter("cadence", "1", 1, 1e9, "rows between two searches"),
                    choice_parameter("search", {"exhaustive", "chunked"},
                                     "every record, or those of the best chunks by mean key"),
                    integer_parameter("chunk", "64", 1, 65536, "records of a chunk"),
                    choice_parameter("score", {"max", "mean", "per_head"},
                                     "largest or mean q.k of the query heads that read a record, or each for itself"),
                    choice_parameter("value", {"record", "exact"}, "from the record, or from an exact copy on disk"),
                    choice_parameter("positions", {"true", "remapped"},
                                     "of recalled keys: their own, or right before the window"),
                    choice_parameter("tier", {"host", "disk"}, "where records lie"),
                    choice_parameter("codec", {"auto", "rotation", "low_rank", "exact"}, "of the records")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<InfiniteKv>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies
