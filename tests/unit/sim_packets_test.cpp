// Does a prompt put together from packets attend as the formulas of KV Packet say, cut or not, and is it exact where
// documents do not see each other?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>

#include "sim/replay/placed_layer.h"
#include "tests/support/memory_trace_replay.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::test;

namespace {

using traces::Packet;
using traces::PacketSet;

constexpr int dim = 8;

/// The half layout, straight from the definition.
std::vector<double> turned(const std::vector<float>& tensor, std::size_t head_row, const std::vector<double>& inv_freq,
                           double distance) {
  std::vector<double> head(dim);
  for (std::size_t c = 0; c < dim; ++c) head[c] = static_cast<double>(tensor[head_row * dim + c]);
  std::vector<double> result = head;
  for (std::size_t pair = 0; pair < dim / 2; ++pair) {
    const double angle = distance * inv_freq[pair];
    result[pair] = head[pair] * std::cos(angle) - head[pair + dim / 2] * std::sin(angle);
    result[pair + dim / 2] = head[pair] * std::sin(angle) + head[pair + dim / 2] * std::cos(angle);
  }
  return result;
}

MemoryTrace::PacketData& packets_of(MemoryTrace& trace, PacketSet set) {
  return trace.sequences[0].packets[static_cast<std::size_t>(set)];
}

/// Whether a row of all packets together stays after ingest.
using Stays = std::function<bool(int query_head, std::int32_t row)>;

/// Output of a decode row over preamble, packets and what follows, everything at its position in the assembled prompt:
/// queries and fresh rows behind the documents are moved there, where the library moves the others.
class Assembled {
 public:
  Assembled(MemoryTrace& trace, PacketSet set, bool closed, Stays stays)
      : trace_(trace), packets_(packets_of(trace, set)), closed_(closed), stays_(std::move(stays)) {}

  [[nodiscard]] double error(int layer, int query_head, std::int32_t row) const {
    const traces::LayerTensors& recorded = trace_.sequences[0].layers[static_cast<std::size_t>(layer)];
    const auto length = static_cast<std::size_t>(recorded.length);
    const std::vector<double> full = attend(layer, query_head, row, true);
    const std::vector<double> assembled = attend(layer, query_head, row, false);
    REQUIRE(length > 0);
    double difference = 0, norm = 0;
    for (std::size_t c = 0; c < dim; ++c) {
      difference += (assembled[c] - full[c]) * (assembled[c] - full[c]);
      norm += full[c] * full[c];
    }
    return std::sqrt(difference / norm);
  }

 private:
  [[nodiscard]] std::vector<double> attend(int layer, int query_head, std::int32_t row, bool full) const {
    const traces::SequenceInfo& info = trace_.sequences[0].info;
    const traces::LayerTensors& recorded = trace_.sequences[0].layers[static_cast<std::size_t>(layer)];
    const traces::PacketTensors& packets = packets_.layers[static_cast<std::size_t>(layer)];
    const std::vector<double>& inv_freq = trace_.header.inv_freq;
    const auto length = static_cast<std::size_t>(recorded.length);
    const auto kv_head = static_cast<std::size_t>(query_head / trace_.header.group_size());
    const std::int32_t end = packets_.layout.back().document.last;
    const auto after = static_cast<std::size_t>(recorded.length - end);
    const auto rows = static_cast<std::size_t>(traces::total_rows(packets_.layout));
    const std::int32_t first = packets_.layout.front().document.first;
    const double start = info.positions[static_cast<std::size_t>(first)];
    const double moved = start + static_cast<double>(rows) - (info.positions[static_cast<std::size_t>(end - 1)] + 1);

    std::vector<std::vector<double>> keys;
    std::vector<const float*> values;
    const auto add = [&](const std::vector<float>& k, const std::vector<float>& v, std::size_t place, double distance) {
      keys.push_back(turned(k, place, inv_freq, distance));
      values.push_back(v.data() + place * dim);
    };
    for (std::int32_t token = 0; token <= row; ++token) {
      if (!full && token >= first && (token < end || closed_)) continue;
      add(recorded.k, recorded.v, kv_head * length + static_cast<std::size_t>(token),
          !full && token >= end ? moved : 0);
    }
    if (!full) {
      std::int32_t place = 0;
      double offset = start;
      for (const Packet& packet : packets_.layout) {
        for (std::int32_t local = 0; local < packet.rows(); ++local, ++place) {
          if (!stays_(query_head, place)) continue;
          add(packets.k, packets.v, kv_head * rows + static_cast<std::size_t>(place), offset);
        }
        offset += packet.rows();
      }
      for (std::int32_t token = end; closed_ && token <= row; ++token) {
        add(packets.after_k, packets.after_v, kv_head * after + static_cast<std::size_t>(token - end), 0);
      }
    }
    const auto head = static_cast<std::size_t>(query_head);
    const std::vector<double> query =
        !full && closed_
            ? turned(packets.after_q, head * after + static_cast<std::size_t>(row - end), inv_freq, 0)
            : turned(recorded.q, head * length + static_cast<std::size_t>(row), inv_freq, full ? 0 : moved);
    std::vector<double> weights;
    for (const std::vector<double>& key : keys) {
      weights.push_back(trace_.header.attention_scale * std::inner_product(key.begin(), key.end(), query.begin(), 0.0));
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    std::vector<double> output(dim, 0.0);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      for (std::size_t c = 0; c < dim; ++c) output[c] += weights[i] / sum * static_cast<double>(values[i][c]);
    }
    return output;
  }

  MemoryTrace& trace_;
  MemoryTrace::PacketData& packets_;
  bool closed_;
  Stays stays_;
};

const Stays everything = [](int, std::int32_t) { return true; };

/// Every reported error of point `point` against the formulas; float32 keys and sums leave 1e-5.
void check_errors(const MemoryTrace& trace, const ReplayCollector& results, std::size_t point,
                  const Assembled& assembled) {
  REQUIRE(results.failed_policies.empty());
  REQUIRE(results.skipped_policies.empty());
  for (int layer = 0; layer < trace.header.num_layers; ++layer) {
    const CollectedRows& rows = results.rows.at({point, static_cast<std::size_t>(layer)});
    for (std::size_t r = 0; r < rows.rows.size(); ++r) {
      for (int head = 0; head < rows.query_heads; ++head) {
        const float reported =
            rows.output_error[r * static_cast<std::size_t>(rows.query_heads) + static_cast<std::size_t>(head)];
        CHECK(static_cast<double>(reported) ==
              Approx(assembled.error(layer, head, rows.rows[r])).epsilon(1e-4).margin(1e-5));
      }
    }
  }
}

float largest_error(const ReplayCollector& results, std::size_t point) {
  float largest = 0;
  for (const auto& [key, rows] : results.rows) {
    if (key.first != point) continue;
    largest = std::max(largest, *std::max_element(rows.output_error.begin(), rows.output_error.end()));
  }
  return largest;
}

/// A packet of the trace as a prompt of its own, with nothing behind it.
MemoryTrace alone(MemoryTrace& trace, PacketSet set, std::size_t packet) {
  const MemoryTrace::PacketData& packets = packets_of(trace, set);
  std::size_t first = 0;
  for (std::size_t i = 0; i < packet; ++i) first += static_cast<std::size_t>(packets.layout[i].rows());
  const auto rows = static_cast<std::size_t>(packets.layout[packet].rows());
  const auto all = static_cast<std::size_t>(traces::total_rows(packets.layout));
  MemoryTrace single;
  single.header = trace.header;
  MemoryTrace::Sequence sequence;
  sequence.info.prompt_length = sequence.info.length = static_cast<std::int32_t>(rows);
  sequence.info.positions.resize(rows);
  std::iota(sequence.info.positions.begin(), sequence.info.positions.end(), 0);
  for (const traces::PacketTensors& tensors : packets.layers) {
    traces::LayerTensors layer;
    layer.length = static_cast<std::int32_t>(rows);
    layer.q_rows = sequence.info.positions;
    const auto cut = [&](const std::vector<float>& from, std::vector<float>& to) {
      for (std::size_t head = 0; head < from.size() / (all * dim); ++head) {
        const auto begin = from.begin() + static_cast<std::ptrdiff_t>((head * all + first) * dim);
        to.insert(to.end(), begin, begin + static_cast<std::ptrdiff_t>(rows * dim));
      }
    };
    cut(tensors.k, layer.k);
    cut(tensors.v, layer.v);
    cut(tensors.q, layer.q);
    sequence.layers.push_back(std::move(layer));
  }
  single.sequences.push_back(std::move(sequence));
  return single;
}

}  // namespace

TEST_CASE("documents that do not see each other are exact when turned to their place") {
  MemoryTrace trace = random_trace({.prompt_length = 40, .length = 46});
  MemoryTrace::PacketData& bare = packets_of(trace, PacketSet::bare);
  REQUIRE(bare.layout.size() == 2);
  REQUIRE(bare.layout[0].document.last == bare.layout[1].document.first);
  const auto rows = static_cast<std::size_t>(traces::total_rows(bare.layout));
  for (std::size_t layer = 0; layer < bare.layers.size(); ++layer) {
    const traces::LayerTensors& recorded = trace.sequences[0].layers[layer];
    for (std::size_t head = 0; head < 2; ++head) {
      std::size_t place = 0;
      for (const Packet& packet : bare.layout) {
        for (std::int32_t token = packet.document.first; token < packet.document.last; ++token, ++place) {
          const std::size_t from = head * 46 + static_cast<std::size_t>(token);
          const std::vector<double> key = turned(recorded.k, from, trace.header.inv_freq, -packet.document.first);
          for (std::size_t c = 0; c < dim; ++c) {
            bare.layers[layer].k[(head * rows + place) * dim + c] = static_cast<float>(key[c]);
            bare.layers[layer].v[(head * rows + place) * dim + c] = recorded.v[from * dim + c];
          }
        }
      }
    }
  }
  const ReplayCollector results = replayed(trace, "kvpacket(packets=bare)", {"1", "0.3"});
  REQUIRE(results.failed_policies.empty());
  CHECK(largest_error(results, 0) < 2e-6F);
  CHECK(largest_error(results, 1) == largest_error(results, 0));  // without a press nothing depends on the budget
  for (const float mass : results.rows.at({0, 0}).retained_mass) CHECK(mass == Approx(1).margin(1e-5));
}

TEST_CASE("wrapped and bare packets attend as the formulas say") {
  TraceShape shape{.prompt_length = 40, .length = 46};
  shape.position_step = GENERATE(1, 3);
  MemoryTrace trace = random_trace(shape);
  const PacketSet set = GENERATE(PacketSet::wrapped, PacketSet::bare);
  const bool closed = GENERATE(false, true);
  const std::string policy =
      std::string("kvpacket(packets=") + to_string(set) + ",loop=" + (closed ? "closed" : "open") + ")";
  const ReplayCollector results = replayed(trace, policy, {"1"});
  check_errors(trace, results, 0, Assembled(trace, set, closed, everything));
  CHECK(largest_error(results, 0) > 0.01F);  // random packets differ from the recorded documents
}

TEST_CASE("what lies between documents is in no packet") {
  MemoryTrace trace = random_trace({.prompt_length = 40, .length = 44});
  for (const PacketSet set : traces::packet_sets) {
    MemoryTrace::PacketData& packets = packets_of(trace, set);
    packets.layout[0].document.last -= 3;
    packets.layout[1].header += 3;  // as many rows as before
  }
  const ReplayCollector results = replayed(trace, "kvpacket", {"1"});
  check_errors(trace, results, 0, Assembled(trace, PacketSet::wrapped, false, everything));
  const std::int32_t first = packets_of(trace, PacketSet::wrapped).layout[0].document.last;
  for (const float mass : results.rows.at({0, 0}).retained_mass) CHECK(mass < 1);
  CHECK(first == 17);
}

TEST_CASE("a press cuts every packet by itself, and what stays keeps its offset") {
  MemoryTrace trace = random_trace({.prompt_length = 40, .length = 46});
  const std::string press = GENERATE(std::string("keydiff"), std::string("snapkv(window=4,kernel=3)"),
                                     std::string("adakv(knorm)"), std::string("criticalkv(snapkv(window=4))"));
  const std::string budget = GENERATE(std::string("0.5"), std::string("10"));
  const ReplayCollector results =
      replayed(trace, "kvpacket(press='" + press + "'),kvpacket(press='" + press + "',protect=true)", {budget});
  const traces::Packets& layout = packets_of(trace, PacketSet::wrapped).layout;
  const auto rows = traces::total_rows(layout);

  std::vector<std::vector<std::vector<std::int32_t>>> kept(2, {{}, {}});  // [layer][kv head]
  std::int32_t first = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    MemoryTrace single = alone(trace, PacketSet::wrapped, i);
    single.w_o = trace.w_o;
    // 10 entries of a prompt of 40 are a quarter of each packet.
    const ReplayCollector cut = replayed(single, press, {budget == "10" ? "0.25" : budget});
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::size_t head = 0; head < 2; ++head) {
        for (const std::int32_t row : cut.cuts.at({0, layer}).kept[head]) kept[layer][head].push_back(first + row);
      }
    }
    first += layout[i].rows();
  }
  REQUIRE(first == rows);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const auto stays = [&](int query_head, std::int32_t row) {
      const auto& head = kept[layer][static_cast<std::size_t>(query_head / 2)];
      return std::binary_search(head.begin(), head.end(), row);
    };
    const Assembled assembled(trace, PacketSet::wrapped, false, stays);
    const CollectedRows& reported = results.rows.at({0, layer});
    for (std::size_t r = 0; r < reported.rows.size(); ++r) {
      for (int head = 0; head < 4; ++head) {
        CHECK(static_cast<double>(reported.output_error[r * 4 + static_cast<std::size_t>(head)]) ==
              Approx(assembled.error(static_cast<int>(layer), head, reported.rows[r])).epsilon(1e-4).margin(1e-5));
      }
    }
    // Preamble, question and what the packets kept, times k and v of 8 float32 numbers.
    const std::size_t fresh = 40 - static_cast<std::size_t>(layout.back().document.last - layout[0].document.first);
    const double entries = static_cast<double>(2 * fresh + kept[layer][0].size() + kept[layer][1].size());
    CHECK((*results.cuts.at({0, layer}).stored)[policies::Tier::hbm] == entries * 2 * 8 * 4);
  }
  // Boundary tokens that stay count in the budget.
  CHECK((*results.cuts.at({1, 0}).stored)[policies::Tier::hbm] ==
        (*results.cuts.at({0, 0}).stored)[policies::Tier::hbm]);
}

TEST_CASE("with protection, all boundary tokens stay and documents give way") {
  MemoryTrace trace = random_trace({.prompt_length = 40, .length = 42});
  traces::Packets& layout = packets_of(trace, PacketSet::wrapped).layout;
  layout = {{{5, 17}, 2, 1}, {{17, 29}, 2, 1}};  // 15 rows each, of which 3 are boundary
  const std::string share = std::to_string(3.5 / 15);
  const ReplayCollector results = replayed(trace, "kvpacket(press=random,protect=true)", {share});
  const auto boundary = [&](int, std::int32_t row) {
    const bool second = row >= layout[0].rows();
    const std::int32_t local = second ? row - layout[0].rows() : row;
    const Packet& packet = layout[second ? 1 : 0];
    return local < packet.header || local >= packet.rows() - packet.trailer;
  };
  check_errors(trace, results, 0, Assembled(trace, PacketSet::wrapped, false, boundary));
}

TEST_CASE("packets under a policy that cut the prompt attend what both kept") {
  MemoryTrace trace = random_trace({.prompt_length = 40, .length = 44});
  const ReplayCollector results = replayed(trace, "window,window@kvpacket", {"0.25", "1"});
  REQUIRE(results.failed_policies.empty());
  const traces::Packets& layout = packets_of(trace, PacketSet::wrapped).layout;
  const std::int32_t boundary = 2 * 3;
  const CollectedRows& cut = results.rows.at({2, 0});
  for (const std::int32_t resident : cut.resident) CHECK(resident <= 10 + 4 + boundary);
  check_errors(trace, results, 3, Assembled(trace, PacketSet::wrapped, false, everything));
  CHECK(layout.size() == 2);
}

TEST_CASE("what a trace lacks of packets is named, and the policy skipped") {
  const auto why_of = [](const MemoryTrace& trace, const std::string& policy) {
    const ReplayCollector results =
        replayed(stored_list(trace), sim::ReplayPlan::of(policies::parse_policies(policy), budgets_of({"0.5"})),
                 {.skip_missing_needs = true});
    CHECK(results.failed_policies.empty());
    return results.skipped_policies.empty() ? std::string() : results.skipped_policies.begin()->second;
  };
  MemoryTrace trace = random_trace({.prompt_length = 40, .length = 44});
  CHECK(why_of(trace, "kvpacket").empty());
  MemoryTrace::PacketData& wrapped = packets_of(trace, PacketSet::wrapped);
  for (traces::PacketTensors& tensors : wrapped.layers) tensors.q.clear();
  CHECK(why_of(trace, "kvpacket(press=keydiff)").empty());
  CHECK(why_of(trace, "kvpacket(press=snapkv)") ==
        "needs /sequences/000000/packets/wrapped/layer_000/q, which the trace lacks");
  for (traces::PacketTensors& tensors : wrapped.layers) tensors.after_k.clear();
  CHECK(why_of(trace, "kvpacket").empty());
  CHECK(why_of(trace, "kvpacket(loop=closed)") ==
        "needs /sequences/000000/packets/wrapped/layer_000/after_k, which the trace lacks");
  wrapped.layers.pop_back();
  CHECK(why_of(trace, "kvpacket") == "needs /sequences/000000/packets/wrapped/layer_001/k, which the trace lacks");
  wrapped = {};
  CHECK(why_of(trace, "kvpacket") == "needs /sequences/000000/packets/wrapped/layer_000/k, which the trace lacks");
  CHECK(why_of(trace, "kvpacket(packets=bare)").empty());
  CHECK_THROWS_AS(replayed(trace, "kvpacket", {"0.5"}), Error);
}

TEST_CASE("presses that cannot cut a packet alone are refused") {
  for (const char* press :
       {"oracle_mass", "full", "quest", "h2o", "lava", "kvzip", "epikv", "kvzap(weights=x)", "not_a_policy"}) {
    INFO(press);
    CHECK_THROWS_AS(policies::parse_policy(std::string("kvpacket(press='") + press + "')"), Error);
  }
  const policies::Policy policy = policies::parse_policy("kvpacket(press='adakv(snapkv(window=8))',protect=true)");
  CHECK(policies::parse_policy(policy.expansion).expansion == policy.expansion);
}

TEST_CASE("a placement that names what is not there is refused") {
  /// Wrong in one way.
  class Wrong : public policies::Placement {
   public:
    explicit Wrong(int kind) : kind_(kind), query_(dim - 1, 0.0F) {}
    void begin(const policies::PlacementView&) override {}
    void attend(const policies::PlacementView& layer, policies::AttendedEntries& attended) override {
      if (kind_ == 0) attended.extra.assign(4, {0});
      if (kind_ == 1) static_cast<void>(layer.packets());
      if (kind_ == 2) static_cast<void>(layer.kept_packet_rows(0));
    }
    [[nodiscard]] std::span<const float> attended_query(const policies::PlacementView& layer,
                                                        int query_head) const override {
      return kind_ == 3 ? std::span<const float>(query_) : layer.query(query_head);
    }
    [[nodiscard]] policies::TierBytes stored(const policies::PlacementView&) const override { return {}; }

   private:
    int kind_;
    std::vector<float> query_;
  };
  const MemoryTrace trace = random_trace({.prompt_length = 12, .length = 16});
  const LoadedLayer loaded(trace);
  const sim::PromptFeatures features;
  sim::LayerCache cache(loaded.data(), features, policies::Granularity::kv_head, {});
  cache.append(12);
  const sim::PlacedLayer layer(loaded.data(), cache, {.cached = 12, .entries = 12});
  const auto [kind, reason] = GENERATE(table<int, std::string>(
      {{0, "beyond the sequence"}, {1, "must be declared"}, {2, "must be declared"}, {3, "another width"}}));
  Wrong wrong(kind);
  CHECK_THROWS_WITH(sim::attend_placed(wrong, layer, cache), Catch::Contains(reason));
}
