#include <algorithm>
#include <utility>

#include "policies/packet_layer.h"
#include "policies/policy.h"
#include "policies/registry.h"
#include "policies/retrieval.h"
#include "policies/scoring.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

/// Keeps header and trailer of a packet.
class Boundary : public Protection {
 public:
  void protect(const CacheView& cache, LayerScores& scores) const override {
    protect_spans(cache, boundary_span, scores);
  }
};

/// The policy that cuts packets; null for none.
std::shared_ptr<const Policy> press_of(const std::string& text, bool protect) {
  if (text.empty()) return nullptr;
  auto press = std::make_shared<Policy>(parse_policy(text));
  const auto refuse = [&](const char* what) {
    throw Error(ErrorCode::invalid_argument, what, {.parameter = "press", .value = text});
  };
  if (press->is_oracle() || press->never_cuts()) refuse("must be a policy that scores without seeing the future");
  if (press->places()) refuse("must be a policy without a placement");
  if (press->fixed_budget) refuse("must leave the budget to the replay");
  if (press->schedule->cuts_while_decoding()) refuse("must cut once, when a packet is made");
  if (press->allocator->scope() != AllocationScope::layer) refuse("must split budgets inside a layer");
  const Needs& needs = press->needs;
  if (needs.layer_input || needs.second_pass || !needs.channels.empty() || !needs.spans.empty()) {
    refuse("must need no more of a packet than q, k, v and w_o");
  }
  if (protect) press->protections.push_back(std::make_shared<const Boundary>());
  return press;
}

/// Rotates a key by `distance` positions.
void turn(const models::Rope& rope, const models::MatrixView& keys, Index row, double distance, std::span<float> out) {
  std::vector<double> key(out.size());
  for (std::size_t c = 0; c < key.size(); ++c) key[c] = keys(row, static_cast<Index>(c));
  // Together a rotation without the factor on cos and sin, which the recorded key has already.
  rope.invert(std::span<double>(key), 0);
  rope.apply(std::span<double>(key), distance);
  std::transform(key.begin(), key.end(), out.begin(), [](double number) { return static_cast<float>(number); });
}

/// The prompt is put together from documents that were read alone: what stands before the documents, their packets one
/// behind the other, what stands behind the documents. Keys are turned by the packet's offset.
class KvPacket : public Placement {
 public:
  explicit KvPacket(const Parameters& parameters)
      : ingest_{.set = parameters.choice("packets") == "wrapped" ? traces::PacketSet::wrapped : traces::PacketSet::bare,
                .press = press_of(parameters.words("press"), parameters.boolean("protect"))},
        closed_(parameters.choice("loop") == "closed") {}

  void begin(const PlacementView& layer) override {
    end_ = layer.packets().layout().back().document.last;
    const auto heads = static_cast<std::size_t>(layer.hot().heads());
    keys_.assign(heads, {});
    values_.assign(heads, {});
    boundary_keys_.assign(heads, {});
    boundary_values_.assign(heads, {});
    for (int head = 0; head < layer.hot().heads(); ++head) assemble(layer, head);
    sort_kept(layer);
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    for (int head = 0; head < layer.hot().heads(); ++head) follow(layer, head);
    attended.extra.resize(attended.rows.size());
    for (std::size_t query_head = 0; query_head < attended.rows.size(); ++query_head) {
      const std::vector<std::uint8_t>& kept = document_rows_[query_head];
      std::erase_if(attended.rows[query_head],
                    [&](std::int32_t row) { return row < end_ && kept[static_cast<std::size_t>(row)] == 0; });
      attended.extra[query_head] = boundary_rows_[query_head];
    }
    count_hits(layer, attended);
  }

  [[nodiscard]] models::MatrixView attended_keys(const PlacementView&, int head) const override {
    return keys_[static_cast<std::size_t>(head)].view();
  }
  [[nodiscard]] models::MatrixView attended_values(const PlacementView&, int head) const override {
    return values_[static_cast<std::size_t>(head)].view();
  }
  [[nodiscard]] models::MatrixView extra_keys(const PlacementView&, int head) const override {
    return boundary_keys_[static_cast<std::size_t>(head)].view();
  }
  [[nodiscard]] models::MatrixView extra_values(const PlacementView&, int head) const override {
    return boundary_values_[static_cast<std::size_t>(head)].view();
  }
  [[nodiscard]] std::span<const float> attended_query(const PlacementView& layer, int query_head) const override {
    if (!closed_) return layer.query(query_head);
    const models::MatrixView queries = layer.packets().after_queries(query_head);
    return {queries.row(layer.hot().seen() - 1 - end_).data(), static_cast<std::size_t>(queries.cols())};
  }

  /// Fresh entries and what stays of the packets, in HBM.
  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    TierBytes bytes;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const QueryHeads queries = layer.hot().query_heads(head);
      const auto any = [&](const auto& held) {
        for (int i = 0; i < queries.count; ++i) {
          if (held(static_cast<std::size_t>(queries.first + i))) return true;
        }
        return false;
      };
      Index entries = 0;
      for (const std::int32_t row : layer.hot().entries(head)) {
        entries += row >= end_ || any([&](std::size_t query_head) {
                     return document_rows_[query_head][static_cast<std::size_t>(row)] != 0;
                   })
                       ? 1
                       : 0;
      }
      for (std::int32_t row = 0; row < boundary_keys_[static_cast<std::size_t>(head)].rows(); ++row) {
        entries += any([&](std::size_t query_head) {
          const auto& rows = boundary_rows_[query_head];
          return std::binary_search(rows.begin(), rows.end(), row);
        })
                       ? 1
                       : 0;
      }
      bytes[Tier::hbm] += exact_bytes(layer, entries);
    }
    return bytes;
  }

  [[nodiscard]] Needs needs() const override {
    Needs needs;
    traces::PacketContents& packets = needs.packets[static_cast<std::size_t>(ingest_.set)];
    packets.rows = true;
    packets.after = closed_;
    if (!ingest_.press) return needs;
    const Needs& press = ingest_.press->needs;
    packets.queries = press.window_queries > 0 || press.all_queries;
    needs.output_weights = press.output_weights;
    needs.parameters = press.parameters;
    return needs;
  }
  [[nodiscard]] const PacketIngest* ingest() const override { return &ingest_; }
  [[nodiscard]] bool changes_whole_cache() const override { return true; }

 private:
  /// Keys and values of the prompt as one cache head attends them.
  void assemble(const PlacementView& layer, int head) {
    const PacketLayer& packets = layer.packets();
    const traces::Packets& layout = packets.layout();
    const models::Rope& rope = layer.hot().rope();
    const auto positions = layer.hot().positions();
    const int kv_head = kv_head_of(layer, head);
    const auto place = static_cast<std::size_t>(head);
    const double first = positions[static_cast<std::size_t>(layout.front().document.first)];
    // Where the assembled prompt is longer than the recorded one (or shorter), recorded queries stand that much off.
    const double behind = first + static_cast<double>(packets.rows());
    const double shift = closed_ ? 0 : behind - (positions[static_cast<std::size_t>(end_ - 1)] + 1);
    follow(layer, head);
    for (std::int32_t row = 0; row < layout.front().document.first; ++row) {
      turn(rope, layer.keys(kv_head), row, -shift, keys_[place].row(row));
    }
    const models::MatrixView keys = packets.keys(kv_head);
    const models::MatrixView values = packets.values(kv_head);
    models::Matrix boundary_keys(boundary_count(layout), keys.cols());
    models::Matrix boundary_values(boundary_keys.rows(), keys.cols());
    Index next_boundary = 0;
    Index row = 0;
    double offset = first - shift;
    for (const traces::Packet& packet : layout) {
      for (std::int32_t local = 0; local < packet.rows(); ++local, ++row) {
        const std::int32_t token = token_of(packet, local);
        const std::span<float> key =
            token < 0 ? std::span<float>(boundary_keys.row(next_boundary).data(), static_cast<std::size_t>(keys.cols()))
                      : keys_[place].row(token);
        const std::span<float> value = token < 0
                                           ? std::span<float>(boundary_values.row(next_boundary).data(), key.size())
                                           : values_[place].row(token);
        turn(rope, keys, row, offset, key);
        std::copy_n(values.row(row).data(), value.size(), value.begin());
        next_boundary += token < 0 ? 1 : 0;
      }
      offset += packet.rows();
    }
    boundary_keys_[place].follow(models::view(boundary_keys.data(), boundary_keys.rows(), boundary_keys.cols()));
    boundary_values_[place].follow(models::view(boundary_values.data(), boundary_values.rows(), keys.cols()));
  }

  /// Takes in the rows that arrived: as recorded, or as they were behind the packets.
  void follow(const PlacementView& layer, int head) {
    const int kv_head = kv_head_of(layer, head);
    const auto place = static_cast<std::size_t>(head);
    Index row = keys_[place].rows();
    keys_[place].follow(layer.keys(kv_head));
    values_[place].follow(layer.values(kv_head));
    if (!closed_) return;
    const models::MatrixView keys = layer.packets().after_keys(kv_head);
    const models::MatrixView values = layer.packets().after_values(kv_head);
    for (row = std::max<Index>(row, end_); row < keys_[place].rows(); ++row) {
      const auto width = static_cast<std::size_t>(keys.cols());
      std::copy_n(keys.row(row - end_).data(), width, keys_[place].row(row).begin());
      std::copy_n(values.row(row - end_).data(), width, values_[place].row(row).begin());
    }
  }

  /// Token row of a packet's row; -1 for boundary rows.
  static std::int32_t token_of(const traces::Packet& packet, std::int32_t local) {
    const std::int32_t token = packet.document.first + local - packet.header;
    return local >= packet.header && token < packet.document.last ? token : -1;
  }

  static Index boundary_count(const traces::Packets& layout) {
    Index count = 0;
    for (const traces::Packet& packet : layout) count += packet.header + packet.trailer;
    return count;
  }

  /// Sorts what ingest kept into document rows and boundary rows.
  void sort_kept(const PlacementView& layer) {
    const traces::Packets& layout = layer.packets().layout();
    const auto query_heads = static_cast<std::size_t>(layer.hot().geometry().num_query_heads);
    std::vector<std::uint8_t> preamble(static_cast<std::size_t>(end_), 0);
    std::fill_n(preamble.begin(), layout.front().document.first, std::uint8_t{1});
    document_rows_.assign(query_heads, preamble);
    boundary_rows_.assign(query_heads, {});
    for (std::size_t query_head = 0; query_head < query_heads; ++query_head) {
      const auto kept = layer.kept_packet_rows(static_cast<int>(query_head));
      std::int32_t row = 0;
      std::int32_t boundary = 0;
      for (const traces::Packet& packet : layout) {
        for (std::int32_t local = 0; local < packet.rows(); ++local, ++row) {
          const std::int32_t token = token_of(packet, local);
          const bool stays = std::binary_search(kept.begin(), kept.end(), row);
          if (token >= 0) {
            document_rows_[query_head][static_cast<std::size_t>(token)] = stays ? 1 : 0;
          } else if (const std::int32_t place = boundary++; stays) {
            boundary_rows_[query_head].push_back(place);
          }
        }
      }
    }
  }

  PacketIngest ingest_;
  bool closed_;
  std::int32_t end_ = 0;                                      ///< token row behind the last document
  std::vector<ChangedRows> keys_, values_;                    ///< by cache head
  std::vector<ChangedRows> boundary_keys_, boundary_values_;  ///< by cache head
  std::vector<std::vector<std::uint8_t>> document_rows_;      ///< [query head][end_] whether a row is attended
  std::vector<std::vector<std::int32_t>> boundary_rows_;      ///< [query head] ascending places among boundary rows
};

const Registration registration(
    {.name = "kvpacket",
     .sentence = "Attends documents as they were read alone, turned to their place; what surrounds them is fresh.",
     .citation = "KV Packet, arXiv 2604.13226; ChuangtaoChen-TUM/KVPacket",
     .parameters = {choice_parameter("packets", {"wrapped", "bare"}, "documents between boundary tokens, or without"),
                    text_parameter("press", "policy that cuts each packet to the budget's share, 'keydiff'; none"),
                    boolean_parameter("protect", "false", "the press keeps boundary tokens"),
                    choice_parameter("loop", {"open", "closed"},
                                     "rows behind the documents as recorded, or as they were behind the packets")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<KvPacket>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies
