#include "traces/capture/sink/capture_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "traces/capture/sink/text_fields.h"
#include "traces/reader.h"

namespace evictsim::traces::capture {
namespace {

constexpr std::array channel_roles = {
    std::pair{Role::entropy, Channel::entropy},
    std::pair{Role::entropy_top, Channel::entropy_top},
    std::pair{Role::logprob, Channel::logprob},
    std::pair{Role::step_norm, Channel::step_norm},
    std::pair{Role::cos_final, Channel::cos_final},
    std::pair{Role::cos_attention, Channel::cos_attention},
    std::pair{Role::residual_norm, Channel::residual_norm},
    std::pair{Role::final_norm_input, Channel::final_norm_input},
};

std::vector<std::string> words(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char character : text) {
    if (character == separator) {
      parts.emplace_back();
    } else {
      parts.back() += character;
    }
  }
  return parts;
}

void parse_channels(const TextField& field, std::array<bool, role_count>& channels) {
  channels.fill(false);
  if (field.value == "none") return;
  for (const std::string& word : words(field.value, ',')) {
    bool known = word == "all";
    for (const auto& [role, channel] : channel_roles) {
      if (word != "all" && word != to_string(channel)) continue;
      channels[static_cast<std::size_t>(role)] = true;
      known = true;
    }
    if (!known) throw field.wrong("must be all, none, or names of per-token channels with commas between them");
  }
}

TensorType parse_type(const TextField& field) {
  for (const TensorType type : {TensorType::float16, TensorType::bfloat16, TensorType::float32}) {
    if (field.value == to_string(type)) return type;
  }
  throw field.wrong("must be float16, bfloat16 or float32");
}

bool parse_choice(const TextField& field, const char* yes, const char* no) {
  if (field.value != yes && field.value != no) throw field.wrong(fmt::format("must be {} or {}", no, yes));
  return field.value == yes;
}

template <typename Target>
using Setters = std::map<std::string, std::function<void(const TextField&, Target&)>>;

template <typename Target>
void apply(const std::vector<TextField>& fields, const Setters<Target>& setters, const char* what, Target& target) {
  std::map<std::string, int> seen;
  for (const TextField& field : fields) {
    const auto setter = setters.find(field.name);
    if (setter == setters.end()) {
      std::string known;
      for (const auto& [name, ignored] : setters) known += (known.empty() ? "" : ", ") + name;
      throw field.wrong(fmt::format("there is no such {}; there are {}", what, known));
    }
    if (++seen[field.name] > 1) throw field.wrong("is given twice");
    setter->second(field, target);
  }
}

const Setters<CaptureOptions>& option_setters() {
  using Options = CaptureOptions;
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  static const Setters<Options> setters = {
      {"layers", [](const TextField& field, Options& options) { options.layers = field.indices(); }},
      {"kv_heads", [](const TextField& field, Options& options) { options.kv_heads = field.indices(); }},
      {"q_rows",
       [](const TextField& field, Options& options) { options.queries = parse_query_sample(field.name, field.value); }},
      {"q_all_layers", [](const TextField& field, Options& options) { options.full_query_layers = field.indices(); }},
      {"x", [](const TextField& field, Options& options) { options.hidden = field.flag(); }},
      {"channels", [](const TextField& field, Options& options) { parse_channels(field, options.channels); }},
      {"every", [](const TextField& field, Options& options) { options.every = field.integer(1, most); }},
      {"bytes_per_second", [](const TextField& field, Options& options) { options.bytes_per_second = field.bytes(); }},
      {"store_text", [](const TextField& field, Options& options) { options.store_text = field.flag(); }},
      {"token_ids", [](const TextField& field,
                       Options& options) { options.hash_token_ids = parse_choice(field, "hashed", "plain"); }},
      {"token_key", [](const TextField& field, Options& options) { options.token_key = field.value; }},
      {"dtype", [](const TextField& field, Options& options) { options.type = parse_type(field); }},
      {"compress", [](const TextField& field, Options& options) { options.compress = field.flag(); }},
      {"threads",
       [](const TextField& field, Options& options) { options.threads = static_cast<int>(field.integer(1, 256)); }},
      {"when_full",
       [](const TextField& field, Options& options) { options.drop = parse_choice(field, "drop", "block"); }},
      {"queue", [](const TextField& field, Options& options) { options.queue_bytes = field.bytes(); }},
      {"memory", [](const TextField& field, Options& options) { options.memory_bytes = field.bytes(); }},
      {"shard_bytes", [](const TextField& field, Options& options) { options.shard_bytes = field.bytes(); }},
      {"shard_seconds",
       [](const TextField& field, Options& options) { options.shard_seconds = field.integer(1, most); }},
      {"device_ring", [](const TextField& field, Options& options) { options.device_ring_bytes = field.bytes(); }},
      {"device_history",
       [](const TextField& field, Options& options) { options.device_history_bytes = field.bytes(); }},
      {"graph_ring", [](const TextField& field, Options& options) { options.graph_ring_bytes = field.bytes(); }},
      {"check", [](const TextField& field,
                   Options& options) { options.check_contents = parse_choice(field, "contents", "size"); }},
      {"single_file", [](const TextField& field, Options& options) { options.single_file = field.flag(); }},
  };
  return setters;
}

template <typename Value>
auto number_setter(Value Header::*member) {
  return [member](const TextField& field, Header& header) {
    if constexpr (std::is_same_v<Value, int> || std::is_same_v<Value, std::optional<int>>) {
      header.*member = static_cast<int>(field.integer(0, 1 << 24));
    } else {
      header.*member = field.real();
    }
  };
}

auto text_setter(std::string Header::*member) {
  return [member](const TextField& field, Header& header) { header.*member = field.value; };
}

template <typename Enum>
Enum parse_enum(const TextField& field, std::initializer_list<Enum> values) {
  std::string allowed;
  for (const Enum value : values) {
    if (field.value == to_string(value)) return value;
    allowed += (allowed.empty() ? "" : ", ") + std::string(to_string(value));
  }
  throw field.wrong("must be one of " + allowed);
}

const Setters<Header>& model_setters() {
  static const Setters<Header> setters = {
      {"model", text_setter(&Header::model)},
      {"engine", text_setter(&Header::engine)},
      {"engine_version", text_setter(&Header::engine_version)},
      {"num_layers", number_setter(&Header::num_layers)},
      {"num_query_heads", number_setter(&Header::num_query_heads)},
      {"num_kv_heads", number_setter(&Header::num_kv_heads)},
      {"head_dim", number_setter(&Header::head_dim)},
      {"hidden_size", number_setter(&Header::hidden_size)},
      {"vocab_size", number_setter(&Header::vocab_size)},
      {"attention_scale", number_setter(&Header::attention_scale)},
      {"logit_softcap", number_setter(&Header::logit_softcap)},
      {"rope_theta", number_setter(&Header::rope_theta)},
      {"rope_attention_scaling", number_setter(&Header::rope_attention_scaling)},
      {"rotary_dim", number_setter(&Header::rotary_dim)},
      {"norm_epsilon", number_setter(&Header::norm_epsilon)},
      {"capture_overhead", number_setter(&Header::capture_overhead)},
      {"rope_layout",
       [](const TextField& field, Header& header) {
         header.rope_layout = parse_enum(field, {RopeLayout::half, RopeLayout::interleaved, RopeLayout::none});
       }},
      {"norm_kind",
       [](const TextField& field, Header& header) {
         header.norm_kind = parse_enum(field, {NormKind::rms, NormKind::rms_plus_one, NormKind::layer});
       }},
      {"inv_freq", [](const TextField& field, Header& header) { header.inv_freq = field.reals(); }},
      {"sliding_window",
       [](const TextField& field, Header& header) {
         for (const double value : field.reals()) {
           if (value < 0 || value > std::numeric_limits<std::int32_t>::max() || value != std::floor(value)) {
             throw field.wrong("must be whole numbers, not negative");
           }
           header.sliding_window.push_back(static_cast<int>(value));
         }
       }},
      {"sensitivity",
       [](const TextField& field, Header& header) {
         header.sensitivity = field.reals();
         for (const double value : header.sensitivity) {
           if (!(value >= 0) || !std::isfinite(value)) throw field.wrong("must be finite numbers, not negative");
         }
       }},
  };
  return setters;
}

void require_fields(const std::vector<TextField>& fields, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (std::any_of(fields.begin(), fields.end(), [name](const TextField& field) { return field.name == name; })) {
      continue;
    }
    throw Error(ErrorCode::invalid_argument, "the model record needs this attribute",
                {.file = {}, .dataset = {}, .parameter = name, .value = {}});
  }
}

/// Names listed in `chosen` must lie below `count`.
void require_below(const std::vector<int>& chosen, int count, const char* option, const char* what) {
  if (chosen.empty() || chosen.back() < count) return;
  throw Error(ErrorCode::invalid_argument, fmt::format("the model has {} {}", count, what),
              {.file = {}, .dataset = {}, .parameter = option, .value = std::to_string(chosen.back())});
}

/// Of one value per layer of the model those of the captured layers; none of none.
template <typename Value>
std::vector<Value> of_captured_layers(const std::vector<Value>& values, const Header& header, const char* attribute) {
  if (values.empty()) return {};
  if (values.size() != static_cast<std::size_t>(header.num_layers)) {
    throw Error(ErrorCode::invalid_argument, "must have one value per layer of the model",
                {.file = {}, .dataset = {}, .parameter = attribute, .value = {}});
  }
  std::vector<Value> captured;
  for (const int layer : header.layers) captured.push_back(values[static_cast<std::size_t>(layer)]);
  return captured;
}

}  // namespace

CaptureOptions::CaptureOptions() {
  for (const auto& [role, channel] : channel_roles) channels[static_cast<std::size_t>(role)] = role != Role::cos_final;
}

CaptureOptions parse_capture_options(const char* text) {
  CaptureOptions options;
  apply(parse_fields(text), option_setters(), "option", options);
  return options;
}

QuerySample parse_query_sample(const std::string& parameter, const std::string& text) {
  QuerySample sample;
  if (text == "all") return sample;
  sample.all = false;
  if (text == "none") return sample;
  const auto number = [](const std::string& part, std::string_view prefix, std::int32_t least, std::int32_t& target) {
    if (!part.starts_with(prefix)) return false;
    const char* end = part.data() + part.size();
    const auto [rest, failure] = std::from_chars(part.data() + prefix.size(), end, target);
    return failure == std::errc{} && rest == end && target >= least;
  };
  for (const std::string& part : words(text, '+')) {
    if (part == "decode") {
      sample.decode = true;
    } else if (!number(part, "window:", 0, sample.window) && !number(part, "stride:", 1, sample.stride)) {
      throw Error(ErrorCode::invalid_argument,
                  "must be all, none, or parts joined by + out of window:N, decode and stride:N, such as "
                  "window:64+decode",
                  {.file = {}, .dataset = {}, .parameter = parameter, .value = text});
    }
  }
  return sample;
}

int ModelRecord::place_of(int layer) const {
  const auto place = std::lower_bound(stored.layers.begin(), stored.layers.end(), layer);
  return place != stored.layers.end() && *place == layer ? static_cast<int>(place - stored.layers.begin()) : -1;
}

ModelRecord make_model_record(Header header, const CaptureOptions& options) {
  ModelRecord record;
  header.layers = options.layers;
  for (int layer = 0; options.layers.empty() && layer < header.num_layers; ++layer) header.layers.push_back(layer);
  require_below(header.layers, header.num_layers, "layers", "layers");
  require_below(options.full_query_layers, header.num_layers, "q_all_layers", "layers");
  require_below(options.kv_heads, header.num_kv_heads, "kv_heads", "KV heads");
  header.sliding_window = of_captured_layers(header.sliding_window, header, "sliding_window");
  header.sensitivity = of_captured_layers(header.sensitivity, header, "sensitivity");
  record.pushed = std::move(header);
  record.stored = record.pushed;
  const Header& pushed = record.pushed;
  if (!options.kv_heads.empty() && options.kv_heads.size() != static_cast<std::size_t>(pushed.num_kv_heads)) {
    if (pushed.num_query_heads % pushed.num_kv_heads != 0) return record;  // the header's own check says it best
    record.kv_heads.assign(options.kv_heads.begin(), options.kv_heads.end());
    for (const int head : record.kv_heads) {
      for (int member = 0; member < pushed.group_size(); ++member) {
        record.query_heads.push_back(head * pushed.group_size() + member);
      }
    }
    record.stored.num_kv_heads = static_cast<int>(record.kv_heads.size());
    record.stored.num_query_heads = static_cast<int>(record.query_heads.size());
  }
  return record;
}

ModelRecord parse_model_record(const char* text, const CaptureOptions& options) {
  std::vector<TextField> fields = parse_fields(text);
  Header header;
  // Settings of the engine go into the trace as they are.
  const auto extra = std::stable_partition(fields.begin(), fields.end(), [](const TextField& field) {
    return !field.name.starts_with("capture_") || field.name == "capture_overhead";
  });
  for (auto field = extra; field != fields.end(); ++field) header.extra[field->name] = field->value;
  fields.erase(extra, fields.end());
  constexpr std::string_view how_measured = "sensitivity_";
  std::erase_if(fields, [&](const TextField& field) {
    if (!field.name.starts_with(how_measured) || field.name == how_measured) return false;
    header.sensitivity_attributes[field.name.substr(how_measured.size())] = field.value;
    return true;
  });
  apply(fields, model_setters(), "attribute", header);
  require_fields(fields, {"model", "engine", "num_layers", "num_query_heads", "num_kv_heads", "head_dim", "hidden_size",
                          "vocab_size", "rope_layout"});
  const auto given = [&](const char* name) {
    return std::any_of(fields.begin(), fields.end(), [name](const TextField& field) { return field.name == name; });
  };
  if (!given("attention_scale") && header.head_dim > 0) {
    header.attention_scale = 1 / std::sqrt(static_cast<double>(header.head_dim));
  }
  if (header.rope_layout != RopeLayout::none) {
    require_fields(fields, {"rope_theta"});
    for (int pair = 0; !given("inv_freq") && pair < header.rotated() / 2; ++pair) {
      header.inv_freq.push_back(std::pow(header.rope_theta, -2.0 * pair / header.rotated()));
    }
  } else if (!given("rotary_dim")) {
    header.rotary_dim = 0;
  }
  return make_model_record(std::move(header), options);
}

}  // namespace evictsim::traces::capture
