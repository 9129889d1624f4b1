#include "traces/synthesize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "traces/error.h"
#include "traces/writer.h"

namespace evictsim::traces {
namespace {

/// splitmix64: one multiply-xorshift per number and the same everywhere, unlike the standard distributions.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t value = state_ += 0x9e3779b97f4a7c15U;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9U;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebU;
    return value ^ (value >> 31);
  }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(uniform() * static_cast<double>(count)); }
  /// Mean 0, variance 1, nearly normal: the sum of four uniform 16-bit numbers.
  float gaussian() {
    const std::uint64_t bits = next();
    const auto sum =
        static_cast<std::int32_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48));
    return static_cast<float>(sum - 2 * 65535) * (1.7320508F / 65536.0F);
  }

 private:
  std::uint64_t state_;
};

void require(bool holds, const char* parameter, const char* rule, double value) {
  if (holds) return;
  throw Error(ErrorCode::invalid_argument, rule,
              {.file = {}, .dataset = {}, .parameter = parameter, .value = fmt::format("{}", value)});
}

void require_valid_options(const SynthOptions& options) {
  const auto least = [](int value, int bound, const char* name, const char* rule) {
    require(value >= bound, name, rule, value);
  };
  least(options.layers, 1, "layers", "must be at least 1");
  least(options.kv_heads, 1, "kv-heads", "must be at least 1");
  require(options.query_heads >= 1 && options.query_heads % options.kv_heads == 0, "heads",
          "must be a multiple of kv-heads", options.query_heads);
  require(options.head_dim >= 8 && options.head_dim % 2 == 0, "head-dim", "must be even and at least 8",
          options.head_dim);
  least(options.hidden_size, 1, "hidden-size", "must be at least 1");
  least(options.vocab_size, 1, "vocab", "must be at least 1");
  least(options.decode, 0, "decode", "must not be negative");
  least(options.sequences, 1, "sequences", "must be at least 1");
  least(options.window, 0, "window", "must not be negative");
  for (const int count : {options.sinks, options.heavy_hitters, options.needles, options.distractors}) {
    least(count, 0, "sinks, heavy-hitters, needles, distractors", "must not be negative");
  }
  least(options.needle_width, 1, "needle-width", "must be at least 1");
  const std::int64_t needed = std::int64_t{options.sinks} + options.heavy_hitters + options.distractors +
                              std::int64_t{2} * options.needles * options.needle_width + 1;
  require(options.prompt >= needed, "prompt",
          "must have room for the sinks, heavy hitters, distractors and twice the needles", options.prompt);
  least(options.documents, 0, "documents", "must not be negative");
  require(options.documents <= options.prompt - options.sinks - 1, "documents",
          "must be fewer than the prompt's tokens behind the sinks", options.documents);
  require(std::isfinite(options.packet_noise) && options.packet_noise >= 0 && options.packet_noise <= 100,
          "packet-noise", "must lie between 0 and 100", options.packet_noise);
  require(std::int64_t{options.prompt} + options.decode < (1 << 24), "prompt", "must be below 16777216 with decode",
          options.prompt);
  require(std::isfinite(options.rope_theta) && options.rope_theta > 1, "rope-theta", "must be above 1",
          options.rope_theta);
  for (const double logit : {options.sink_logit, options.recency_logit, options.heavy_logit, options.needle_logit,
                             options.distractor_gap, options.noise_logit}) {
    require(std::isfinite(logit) && std::abs(logit) <= 100, "logits", "must lie between -100 and 100", logit);
  }
}

/// What every token of a sequence is, the same in all layers and heads.
struct Plan {
  std::vector<float> salience;  ///< [T] logit from the slowest pair
  std::vector<float> needle;    ///< [T] logit from the next pair, for decode queries
  SequenceInfo info;
};

Plan make_plan(const SynthOptions& options, Random& random) {
  const auto prompt = static_cast<std::size_t>(options.prompt);
  const std::size_t length = prompt + static_cast<std::size_t>(options.decode);
  Plan plan{std::vector<float>(length, 0), std::vector<float>(length, 0), {}};
  plan.info.length = static_cast<std::int32_t>(length);
  plan.info.prompt_length = options.prompt;
  plan.info.task = "synthetic";
  plan.info.positions.resize(length);
  std::iota(plan.info.positions.begin(), plan.info.positions.end(), 0);
  std::fill_n(plan.salience.begin(), options.sinks, static_cast<float>(options.sink_logit));

  std::set<std::size_t> taken;
  for (int sink = 0; sink < options.sinks; ++sink) taken.insert(static_cast<std::size_t>(sink));
  // Needles first, one in each of as many stretches of the prompt, since they need neighbours that are free.
  const auto width = static_cast<std::size_t>(options.needle_width);
  const auto sinks = static_cast<std::size_t>(options.sinks);
  for (std::size_t needle = 0; needle < static_cast<std::size_t>(options.needles); ++needle) {
    const std::size_t stretch = (prompt - sinks) / static_cast<std::size_t>(options.needles);
    const std::size_t first = sinks + needle * stretch + random.below(stretch - width + 1);
    for (std::size_t token = first; token < first + width; ++token) {
      taken.insert(token);
      plan.needle[token] = static_cast<float>(options.needle_logit);
    }
    plan.info.spans["evidence"].push_back({static_cast<std::int32_t>(first), static_cast<std::int32_t>(first + width)});
  }
  const auto free_token = [&] {
    std::size_t token = 0;
    do {
      token = random.below(prompt);
    } while (!taken.insert(token).second);
    return token;
  };
  for (int hitter = 0; hitter < options.heavy_hitters; ++hitter) {
    plan.salience[free_token()] = static_cast<float>(options.heavy_logit);
  }
  for (int distractor = 0; distractor < options.distractors; ++distractor) {
    const double logit = options.needle_logit - options.distractor_gap * random.uniform();
    const std::size_t token = free_token();
    plan.needle[token] = static_cast<float>(logit);
    plan.info.spans["distractor"].push_back({static_cast<std::int32_t>(token), static_cast<std::int32_t>(token + 1)});
  }
  if (options.distractors > 0) {
    std::vector<Span>& spans = plan.info.spans["distractor"];
    std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.first < b.first; });
  }
  plan.info.spans["question"] = {{options.prompt - 1, options.prompt}};
  // The last token, the question, is in no document.
  const std::int32_t room = options.prompt - options.sinks - 1;
  for (std::int64_t document = 0; document < options.documents; ++document) {
    const auto edge = [&](std::int64_t index) {
      return options.sinks + static_cast<std::int32_t>(index * room / options.documents);
    };
    plan.info.spans["document"].push_back({edge(document), edge(document + 1)});
  }
  return plan;
}

/// Builds pre-RoPE vectors and rotates them.
class Rotator {
 public:
  Rotator(const SynthOptions& options, const Header& header)
      : pairs_(header.inv_freq.size()),
        half_(options.rope_layout == RopeLayout::half),
        rotates_(options.rope_layout != RopeLayout::none),
        inv_freq_(header.inv_freq),
        cosine_(pairs_),
        sine_(pairs_) {}

  void set_position(std::int32_t position) {
    for (std::size_t pair = 0; rotates_ && pair < pairs_; ++pair) {
      const double angle = position * inv_freq_[pair];
      cosine_[pair] = static_cast<float>(std::cos(angle));
      sine_[pair] = static_cast<float>(std::sin(angle));
    }
  }
  /// Index of the first component of a pair; the second follows `gap()` later.
  [[nodiscard]] std::size_t first(std::size_t pair) const { return half_ ? pair : 2 * pair; }
  [[nodiscard]] std::size_t gap() const { return half_ ? pairs_ : 1; }
  [[nodiscard]] std::size_t pairs() const { return pairs_; }
  void rotate(float* head) const {
    if (!rotates_) return;
    for (std::size_t pair = 0; pair < pairs_; ++pair) {
      float& real = head[first(pair)];
      float& imaginary = head[first(pair) + gap()];
      const float turned = real * cosine_[pair] - imaginary * sine_[pair];
      imaginary = real * sine_[pair] + imaginary * cosine_[pair];
      real = turned;
    }
  }

 private:
  std::size_t pairs_;
  bool half_, rotates_;
  std::vector<double> inv_freq_;
  std::vector<float> cosine_, sine_;
};

class Synthesizer {
 public:
  Synthesizer(const std::filesystem::path& path, const SynthOptions& options)
      : options_(options),
        header_(make_header(options)),
        writer_(path, header_, {options.tensor_type, options.compress}) {}

  void run() {
    for (int layer = 0; layer < options_.layers; ++layer) write_weights(layer);
    for (int sequence = 0; sequence < options_.sequences; ++sequence) write_sequence(sequence);
    writer_.seal();
  }

 private:
  static Header make_header(const SynthOptions& options) {
    Header header;
    header.model = "synthetic";
    header.engine = "evictsim trace synth";
    header.engine_version = "1";
    header.created = "1970-01-01T00:00:00Z";  // the same bytes whenever it is made
    header.num_layers = options.layers;
    header.num_query_heads = options.query_heads;
    header.num_kv_heads = options.kv_heads;
    header.head_dim = options.head_dim;
    header.hidden_size = options.hidden_size;
    header.vocab_size = options.vocab_size;
    header.attention_scale = 1 / std::sqrt(static_cast<double>(options.head_dim));
    header.rope_theta = options.rope_theta;
    header.rope_layout = options.rope_layout;
    header.norm_epsilon = 1e-5;
    header.norm_kind = NormKind::rms;
    header.layers.resize(static_cast<std::size_t>(options.layers));
    std::iota(header.layers.begin(), header.layers.end(), 0);
    for (int pair = 0; pair < options.head_dim / 2; ++pair) {
      header.inv_freq.push_back(std::pow(options.rope_theta, -2.0 * pair / options.head_dim));
    }
    header.extra["seed"] = std::to_string(options.seed);
    return header;
  }

  /// An independent stream for every part, so that one option does not shift the numbers of the others.
  [[nodiscard]] Random stream(std::uint64_t part, int first, int second = 0) const {
    Random mixed(options_.seed * 0x2545f4914f6cdd1dU + part);
    const std::uint64_t a = mixed.next() + static_cast<std::uint64_t>(first) * 0xd6e8feb86659fd93U;
    return Random(Random(a).next() + static_cast<std::uint64_t>(second) * 0xa0761d6478bd642fU);
  }

  void write_weights(int layer) {
    Random random = stream(1, layer);
    const auto width = static_cast<std::size_t>(options_.hidden_size);
    const std::size_t columns =
        static_cast<std::size_t>(options_.query_heads) * static_cast<std::size_t>(options_.head_dim);
    std::vector<float> values(width * columns);
    const float scale = 1 / std::sqrt(static_cast<float>(columns));
    for (float& value : values) value = scale * random.gaussian();
    writer_.write_weight(layer, LayerWeight::w_o, values);
    values.resize(width);
    for (float& value : values) value = 1 + 0.1F * random.gaussian();
    writer_.write_weight(layer, LayerWeight::input_norm, values);
  }

  void write_sequence(int sequence) {
    Random random = stream(2, sequence);
    const Plan plan = make_plan(options_, random);
    writer_.begin_sequence(plan.info);
    for (int layer = 0; layer < options_.layers; ++layer) {
      write_keys(plan, sequence, layer);
      write_queries(plan, sequence, layer);
      if (options_.hidden_states) write_hidden(plan, sequence, layer);
    }
    write_channels(plan, sequence);
    if (options_.second_pass) write_second_pass(plan, sequence);
    if (options_.documents > 0) write_packets(plan, sequence);
    writer_.end_sequence();
  }

  // On the two slowest pairs q carries `gain` and k carries logit / (scale * gain): their product is the logit.
  [[nodiscard]] float gain() const { return std::sqrt(std::sqrt(static_cast<float>(options_.head_dim)) * 4); }
  [[nodiscard]] float key_factor() const { return 1 / (static_cast<float>(header_.attention_scale) * gain()); }

  void write_keys(const Plan& plan, int sequence, int layer) {
    make_keys(plan, sequence, layer,
              [&](std::span<const float> k, std::span<const float> v) { writer_.append_kv(layer, k, v); });
  }

  /// Hands over k and v of the sequence block by block.
  template <typename Take>
  void make_keys(const Plan& plan, int sequence, int layer, const Take& take) {
    Random random = stream(3, sequence, layer);
    Rotator rotator(options_, header_);
    const auto heads = static_cast<std::size_t>(options_.kv_heads);
    const auto width = static_cast<std::size_t>(options_.head_dim);
    const auto length = static_cast<std::size_t>(plan.info.length);
    const std::size_t slow = rotator.pairs() - 1;
    const float recency = recency_component(rotator);
    constexpr std::size_t block = 256;
    std::vector<float> k(block * heads * width);
    std::vector<float> v(block * heads * width);
    for (std::size_t first = 0; first < length; first += block) {
      const std::size_t rows = std::min(block, length - first);
      for (std::size_t index = 0; index < rows * heads * width; ++index) k[index] = random.gaussian();
      for (std::size_t index = 0; index < rows * heads * width; ++index) v[index] = random.gaussian();
      for (std::size_t row = 0; row < rows; ++row) {
        rotator.set_position(plan.info.positions[first + row]);
        for (std::size_t head = 0; head < heads; ++head) {
          float* key = k.data() + (row * heads + head) * width;
          for (std::size_t pair = 0; pair < slow - 1; ++pair) key[rotator.first(pair)] += recency;
          set_pair(rotator, key, slow, plan.salience[first + row] * key_factor());
          set_pair(rotator, key, slow - 1, plan.needle[first + row] * key_factor());
          rotator.rotate(key);
        }
      }
      take(std::span<const float>(k.data(), rows * heads * width),
           std::span<const float>(v.data(), rows * heads * width));
    }
  }

  void write_queries(const Plan& plan, int sequence, int layer) {
    Random random = stream(4, sequence, layer);
    Rotator rotator(options_, header_);
    const auto heads = static_cast<std::size_t>(options_.query_heads);
    const auto width = static_cast<std::size_t>(options_.head_dim);
    const std::size_t slow = rotator.pairs() - 1;
    const float recency = recency_component(rotator);
    const auto noise = static_cast<float>(options_.noise_logit);
    const std::int32_t first_row = options_.all_queries ? 0 : std::max(0, options_.prompt - options_.window);
    std::vector<float> q(heads * width);
    for (std::int32_t row = first_row; row < plan.info.length; ++row) {
      rotator.set_position(plan.info.positions[static_cast<std::size_t>(row)]);
      // Keys have unit variance and the scale is 1 / sqrt(d): this is the standard deviation of the logits.
      for (float& value : q) value = noise * random.gaussian();
      for (std::size_t head = 0; head < heads; ++head) {
        float* query = q.data() + head * width;
        for (std::size_t pair = 0; pair < slow - 1; ++pair) query[rotator.first(pair)] += recency;
        set_pair(rotator, query, slow, gain());
        set_pair(rotator, query, slow - 1, row >= options_.prompt ? gain() : 0);
        rotator.rotate(query);
      }
      writer_.append_q(layer, {&row, 1}, q);
    }
  }

  /// Queries of `rows` that stand at `position(row)`: noise, sinks and heavy hitters, and what is near.
  template <typename Position>
  std::vector<float> other_queries(Random& random, std::int32_t rows, const Position& position) const {
    Rotator rotator(options_, header_);
    const auto width = static_cast<std::size_t>(options_.head_dim);
    const std::size_t slow = rotator.pairs() - 1;
    const float recency = recency_component(rotator);
    const auto row_size = static_cast<std::size_t>(options_.query_heads) * width;
    std::vector<float> q(static_cast<std::size_t>(rows) * row_size);
    for (float& value : q) value = static_cast<float>(options_.noise_logit) * random.gaussian();
    for (std::int32_t row = 0; row < rows; ++row) {
      rotator.set_position(position(row));
      for (std::size_t begin = 0; begin < row_size; begin += width) {
        float* query = q.data() + static_cast<std::size_t>(row) * row_size + begin;
        for (std::size_t pair = 0; pair < slow - 1; ++pair) query[rotator.first(pair)] += recency;
        set_pair(rotator, query, slow, gain());
        set_pair(rotator, query, slow - 1, 0);
        rotator.rotate(query);
      }
    }
    return q;
  }

  void write_second_pass(const Plan& plan, int sequence) {
    SecondPass rows;
    for (std::int32_t row = 0; row < options_.prompt; ++row) {
      rows.positions.push_back(options_.prompt + row);
      rows.chunk.push_back({0, options_.prompt});
    }
    writer_.write_second_pass(rows);
    for (int layer = 0; layer < options_.layers; ++layer) {
      Random random = stream(7, sequence, layer);
      // A row that repeats a token looks at it as if it stood there.
      writer_.append_second_pass_q(layer, other_queries(random, options_.prompt, [&](std::int32_t row) {
                                     return plan.info.positions[static_cast<std::size_t>(row)];
                                   }));
    }
  }

  void write_packets(const Plan& plan, int sequence) {
    constexpr std::int32_t boundary = 4;  // rows of a header, and of a trailer
    std::array<Packets, packet_sets.size()> layouts;
    for (const Span& document : plan.info.spans.at("document")) {
      layouts[static_cast<std::size_t>(PacketSet::wrapped)].push_back({document, boundary, boundary});
      layouts[static_cast<std::size_t>(PacketSet::bare)].push_back({document, 0, 0});
    }
    for (const PacketSet set : packet_sets) writer_.write_packets(set, layouts[static_cast<std::size_t>(set)]);
    for (int layer = 0; layer < options_.layers; ++layer) {
      std::vector<float> k, v;
      make_keys(plan, sequence, layer, [&](std::span<const float> keys, std::span<const float> values) {
        k.insert(k.end(), keys.begin(), keys.end());
        v.insert(v.end(), values.begin(), values.end());
      });
      for (const PacketSet set : packet_sets) {
        Random random = stream(8 + static_cast<std::uint64_t>(set), sequence, layer);
        for (const Packet& packet : layouts[static_cast<std::size_t>(set)]) {
          write_packet(random, set, packet, layer, k, v);
        }
      }
    }
  }

  /// Keys and values of the sequence, turned to the packet's positions, with noise; boundary rows are noise alone.
  void write_packet(Random& random, PacketSet set, const Packet& packet, int layer, std::span<const float> k,
                    std::span<const float> v) {
    Rotator rotator(options_, header_);
    const auto width = static_cast<std::size_t>(options_.head_dim);
    const std::size_t row_size = static_cast<std::size_t>(options_.kv_heads) * width;
    std::vector<float> keys, values;
    for (std::int32_t row = 0; row < packet.rows(); ++row) {
      const std::int32_t token = packet.document.first + row - packet.header;
      const bool boundary = row < packet.header || token >= packet.document.last;
      const auto noise = static_cast<float>(boundary ? 1 : options_.packet_noise);
      rotator.set_position(packet.header - packet.document.first);
      for (std::size_t i = 0; i < row_size; i += width) {
        const std::size_t from = boundary ? 0 : static_cast<std::size_t>(token) * row_size + i;
        std::vector<float> key(width, 0), value(width, 0);
        if (!boundary) {
          std::copy_n(k.begin() + static_cast<std::ptrdiff_t>(from), width, key.begin());
          std::copy_n(v.begin() + static_cast<std::ptrdiff_t>(from), width, value.begin());
          rotator.rotate(key.data());
        }
        for (float& number : key) number += noise * random.gaussian();
        for (float& number : value) number += noise * random.gaussian();
        keys.insert(keys.end(), key.begin(), key.end());
        values.insert(values.end(), value.begin(), value.end());
      }
    }
    const std::vector<float> queries = other_queries(random, packet.rows(), [](std::int32_t row) { return row; });
    writer_.append_packet_rows(set, layer, {.k = keys, .v = values, .q = queries});
  }

  static void set_pair(const Rotator& rotator, float* head, std::size_t pair, float value) {
    head[rotator.first(pair)] = value;
    head[rotator.first(pair) + rotator.gap()] = 0;
  }

  /// Both q and k carry it on every quick pair: at distance 0 the products add up to recency_logit.
  [[nodiscard]] float recency_component(const Rotator& rotator) const {
    const double pairs = static_cast<double>(rotator.pairs() - 2);
    return static_cast<float>(std::sqrt(std::max(0.0, options_.recency_logit) / (header_.attention_scale * pairs)));
  }

  void write_hidden(const Plan& plan, int sequence, int layer) {
    Random random = stream(5, sequence, layer);
    std::vector<float> x(static_cast<std::size_t>(options_.hidden_size));
    for (std::int32_t row = 0; row < plan.info.length; ++row) {
      for (float& value : x) value = static_cast<float>(layer + 1) * random.gaussian();
      writer_.append_x(layer, x);
    }
  }

  void write_channels(const Plan& plan, int sequence) {
    Random random = stream(6, sequence);
    const auto length = static_cast<std::size_t>(plan.info.length);
    const auto layers = static_cast<std::size_t>(options_.layers);
    std::vector<float> values(length);
    const auto fill = [&](Channel channel, std::size_t count, auto&& value) {
      values.resize(count);
      for (std::size_t index = 0; index < count; ++index) values[index] = static_cast<float>(value(index));
      writer_.write_channel(channel, values);
    };
    fill(Channel::token_ids, length,
         [&](std::size_t) { return random.below(static_cast<std::size_t>(options_.vocab_size)); });
    const double largest_entropy = std::log(static_cast<double>(options_.vocab_size) + 1);
    fill(Channel::entropy, length, [&](std::size_t) { return largest_entropy * std::pow(random.uniform(), 2); });
    const std::vector<float> entropy = values;
    fill(Channel::entropy_top, 3 * length,
         [&](std::size_t index) { return entropy[index / 3] * (0.90 + 0.04 * static_cast<double>(index % 3)); });
    fill(Channel::logprob, length, [&](std::size_t index) {
      const double value = -entropy[index] * (0.3 + 1.4 * random.uniform());
      return index == 0 ? std::numeric_limits<double>::quiet_NaN() : value;
    });
    const double norm = std::sqrt(static_cast<double>(options_.hidden_size));
    const auto depth = [&](std::size_t index) {
      const std::size_t layer = index / length;
      return static_cast<double>(layer + 1) / static_cast<double>(layers);
    };
    fill(Channel::step_norm, layers * length, [&](std::size_t index) {
      const double value = norm * depth(index) * (0.5 + random.uniform());
      return index % length == 0 ? 0.0 : value;
    });
    fill(Channel::cos_final, layers * length,
         [&](std::size_t index) { return depth(index) >= 1 ? 1.0 : depth(index) * (0.8 + 0.2 * random.uniform()); });
    fill(Channel::cos_attention, layers * length, [&](std::size_t) { return 0.9 + 0.1 * random.uniform(); });
    fill(Channel::residual_norm, layers * length,
         [&](std::size_t index) { return norm * (0.5 + depth(index)) * (0.8 + 0.4 * random.uniform()); });
    fill(Channel::final_norm_input, length, [&](std::size_t) { return norm * (1.2 + 0.6 * random.uniform()); });
  }

  SynthOptions options_;
  Header header_;
  Writer writer_;
};

}  // namespace

void synthesize(const std::filesystem::path& path, const SynthOptions& options) {
  require_valid_options(options);
  Synthesizer(path, options).run();
}

}  // namespace evictsim::traces
