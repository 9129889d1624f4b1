#include "sim/serving/workload_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <utility>

#include "policies/names.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

constexpr double largest_rate = 1e9;
constexpr double longest_duration = 9e9;             // seconds; Time ends at 9.2e9
constexpr std::int64_t requests_bound = 20'000'000;  // whose records take a few gigabytes

void check_stop(const Load& load) {
  if (load.stop != nullptr && load.stop->load(std::memory_order_relaxed)) {
    throw Error(ErrorCode::interrupted, "stopped on request");
  }
}

[[noreturn]] void refuse(const char* option, double value, const char* expected) {
  throw Error(ErrorCode::invalid_argument, std::string("expected ") + expected,
              {.parameter = option, .value = fmt::format("{}", value)});
}

void check(const Load& load) {
  if (load.rate && !(*load.rate > 0 && *load.rate <= largest_rate)) {
    refuse("--rate", *load.rate, "requests per second, above 0 and at most 1e9");
  }
  if (!(load.scale_rate > 0 && load.scale_rate <= largest_rate)) {
    refuse("--scale-rate", load.scale_rate, "a factor above 0, at most 1e9");
  }
  if (load.duration && !(*load.duration > 0 && *load.duration <= longest_duration)) {
    refuse("--duration", *load.duration, "seconds, above 0 and at most 9e9");
  }
  if (load.requests && (*load.requests < 1 || *load.requests > requests_bound)) {
    refuse("--requests-count", static_cast<double>(*load.requests), "1 to 2e7 requests");
  }
}

class TraceSource : public RequestSource {
 public:
  TraceSource(const traces::Workload& trace, const Load& load, double stretch)
      : trace_(trace), load_(load), stretch_(stretch), left_(load.requests.value_or(default_left)) {}

  std::optional<traces::WorkloadRequest> next() override {
    check_stop(load_);
    if (next_ == trace_.requests.size() || left_-- == 0) return std::nullopt;
    traces::WorkloadRequest request = trace_.requests[next_++];
    request.arrival_seconds *= stretch_;
    if (load_.duration && request.arrival_seconds >= *load_.duration) {
      next_ = trace_.requests.size();
      return std::nullopt;
    }
    return request;
  }
  std::optional<traces::WorkloadRequest> finished(const RequestRecord& /*record*/) override {
    check_stop(load_);
    return std::nullopt;
  }

 private:
  static constexpr std::int64_t default_left = std::numeric_limits<std::int64_t>::max();

  const traces::Workload& trace_;
  Load load_;
  double stretch_;
  std::int64_t left_;
  std::size_t next_ = 0;
};

class RecordedSource : public RequestSource {
 public:
  RecordedSource(const RecordedWorkload& workload, const Load& load, std::optional<double> rate)
      : workload_(workload),
        load_(load),
        rate_(rate),
        left_(load.requests.value_or(static_cast<std::int64_t>(workload.requests.size()))) {}

  std::optional<traces::WorkloadRequest> next() override {
    check_stop(load_);
    if (given_ == left_) return std::nullopt;
    traces::WorkloadRequest request;
    request.arrival_seconds = rate_ ? static_cast<double>(given_) / *rate_ : 0;
    if (load_.duration && request.arrival_seconds >= *load_.duration) return std::nullopt;
    const RecordedWorkload::Request& recorded =
        workload_.requests[static_cast<std::size_t>(given_++) % workload_.requests.size()];
    request.prompt_tokens = recorded.prompt;
    request.output_tokens = recorded.output;
    cache_ = recorded.cache.get();
    return request;
  }
  std::optional<traces::WorkloadRequest> finished(const RequestRecord& /*record*/) override {
    check_stop(load_);
    return std::nullopt;
  }
  [[nodiscard]] const ResidentCache* resident() const override { return cache_; }

 private:
  const RecordedWorkload& workload_;
  Load load_;
  std::optional<double> rate_;
  std::int64_t left_, given_ = 0;
  const ResidentCache* cache_ = nullptr;
};

class GeneratedSource : public RequestSource {
 public:
  /// `rate`: of requests; none if closed.
  GeneratedSource(const GeneratedWorkload& workload, const Load& load, std::optional<double> rate)
      : workload_(workload),
        load_(load),
        mean_gap_(rate ? static_cast<double>(workload.turns) / *rate : 0),
        gaps_(load.seed, stream_of_gaps, 0),
        left_(load.requests.value_or(load.duration ? std::numeric_limits<std::int64_t>::max() : default_requests)),
        users_(workload.concurrency) {}

  std::optional<traces::WorkloadRequest> next() override {
    check_stop(load_);
    if (workload_.closed()) {
      if (users_ == 0) return std::nullopt;
      --users_;
      return begin_conversation(0);
    }
    const bool first_of_constant = conversations_.empty() && workload_.arrivals == ArrivalProcess::constant;
    if (!first_of_constant) clock_ += workload_.gap(gaps_);
    return begin_conversation(clock_ * mean_gap_);
  }

  std::optional<traces::WorkloadRequest> finished(const RequestRecord& record) override {
    check_stop(load_);
    // Conversations are numbered from 1, and with a single turn in the order of requests.
    const std::size_t number = several_turns() ? record.session - 1 : record.index;
    Conversation& conversation = conversations_[number];
    const double now = to_seconds(record.finish);
    if (several_turns() && conversation.turn < workload_.turns && record.status == RequestStatus::completed) {
      return next_turn(number, now + think(conversation.random));
    }
    if (!workload_.closed()) return std::nullopt;
    // A refusal takes no time; without a pause, refusals alone would fill a duration and never end it.
    const double pause = record.status == RequestStatus::completed ? 0 : 1;
    return begin_conversation(now + pause + think(conversation.random));
  }

 private:
  static constexpr std::uint64_t stream_of_gaps = 1, stream_of_conversations = 2;

  struct Conversation {
    RandomNumbers random;
    std::int64_t turn = 0;    ///< begun so far
    std::int64_t said = 0;    ///< tokens, prompts and answers
    std::uint64_t group = 0;  ///< that its beginning is shared with
  };

  [[nodiscard]] bool several_turns() const { return workload_.turns > 1; }
  [[nodiscard]] double think(RandomNumbers& random) const {
    return workload_.think_seconds > 0 ? workload_.think_seconds * random.exponential() : 0;
  }

  std::optional<traces::WorkloadRequest> begin_conversation(double arrival) {
    if (left_ == 0) return std::nullopt;
    Conversation& conversation =
        conversations_.emplace_back(Conversation{{load_.seed, stream_of_conversations, conversations_.size()}});
    if (workload_.prefix_groups > 0) {
      conversation.group = conversation.random.below(static_cast<std::uint64_t>(workload_.prefix_groups));
      conversation.said = workload_.prefix_tokens;
    }
    auto request = next_turn(conversations_.size() - 1, arrival);
    if (!request) conversations_.pop_back();
    return request;
  }

  std::optional<traces::WorkloadRequest> next_turn(std::size_t number, double arrival) {
    if (left_ == 0 || (load_.duration && arrival >= *load_.duration)) return std::nullopt;
    if (arrival > longest_duration) {
      throw Error(ErrorCode::invalid_argument, "requests arrive after more than 9e9 seconds: set a larger --rate");
    }
    --left_;
    Conversation& conversation = conversations_[number];
    traces::WorkloadRequest request;
    request.arrival_seconds = arrival;
    draw_lengths(conversation.random, request);
    request.prompt_tokens += conversation.said;
    conversation.said = request.prompt_tokens + request.output_tokens;
    ++conversation.turn;
    if (several_turns()) request.session = static_cast<std::uint32_t>(number + 1);
    name_blocks(number, request);
    return request;
  }

  void draw_lengths(RandomNumbers& random, traces::WorkloadRequest& request) const {
    if (workload_.lengths) {
      const auto& lengths = workload_.lengths->lengths;
      const traces::RequestLengths& drawn = lengths[random.below(lengths.size())];
      request.prompt_tokens = drawn.prompt_tokens;
      request.output_tokens = drawn.output_tokens;
    } else {
      request.prompt_tokens = workload_.prompt.draw(random);
      request.output_tokens = workload_.output.draw(random);
    }
  }

  /// Full blocks of the group's beginning have the group's names. Of a conversation all others are known too, up to
  /// the end of the answer, which the next turn sends back.
  void name_blocks(std::size_t number, traces::WorkloadRequest& request) const {
    const auto shared = static_cast<std::uint64_t>(workload_.prefix_tokens / generated_block_tokens);
    std::uint64_t named = shared;
    if (several_turns()) {
      named = static_cast<std::uint64_t>((request.prompt_tokens + request.output_tokens) / generated_block_tokens);
    }
    if (named == 0) return;
    request.prefix_block_tokens = generated_block_tokens;
    request.prefix_blocks.reserve(named);
    const std::uint64_t group = conversations_[number].group << 32U;
    const std::uint64_t own = (1ULL << 63U) | (static_cast<std::uint64_t>(number) << 32U);
    for (std::uint64_t block = 0; block < named; ++block) {
      request.prefix_blocks.push_back((block < shared ? group : own) | block);
    }
  }

  const GeneratedWorkload& workload_;
  Load load_;
  double mean_gap_;  ///< between conversations, seconds
  RandomNumbers gaps_;
  std::int64_t left_;   ///< requests
  std::int64_t users_;  ///< closed: who have not begun
  double clock_ = 0;    ///< in mean gaps
  std::vector<Conversation> conversations_;
};

}  // namespace

ServingWorkload ServingWorkload::find(const std::string& text, const GeneratedWorkload& defaults) {
  ServingWorkload workload;
  std::error_code ignored;
  const bool file = std::filesystem::is_regular_file(text, ignored);
  const bool exists = std::filesystem::exists(text, ignored);
  // A folder that happens to be called "closed" hides nothing.
  if (file || (exists && !GeneratedWorkload::is_one(text))) {
    workload.trace = std::make_shared<traces::Workload>(traces::read_workload(text));
  } else if (GeneratedWorkload::is_one(text)) {
    workload.generated = GeneratedWorkload::parse(text, defaults);
  } else if (text.find_first_of("./") != std::string::npos && text.find('(') == std::string::npos) {
    traces::read_workload(text);  // says why it cannot be read
  } else {
    const std::string name = text.substr(0, text.find('('));
    const std::vector<std::string> near =
        policies::near_to(name, {"poisson", "gamma", "constant", "closed", "replay"}, 1);
    throw Error(ErrorCode::unknown_name,
                fmt::format("expected poisson, gamma(cv=2), constant, closed(concurrency=64), replay:run.h5 or the "
                            "file of a trace (Azure, Mooncake, Qwen-Bailian, BurstGPT, LLMServingSim, CSV){}{}",
                            near.empty() ? "" : "; nearest: ", policies::join(near)),
                {.parameter = "--workload", .value = text});
  }
  return workload;
}

std::string ServingWorkload::name() const {
  if (recorded) return recorded->name;
  return trace ? trace->name : generated.text();
}

std::optional<double> ServingWorkload::rate(const Load& load) const {
  check(load);
  const auto in_range = [&load](double rate) {
    if (!(rate > 0 && rate <= largest_rate)) {
      refuse("--scale-rate", load.scale_rate, "a factor that gives a rate of at most 1e9 requests per second");
    }
    return rate;
  };
  if (closed()) {
    if (load.rate || load.scale_rate != 1) {
      throw Error(ErrorCode::invalid_argument, "a closed loop has no rate: its users wait for answers",
                  {.parameter = load.rate ? "--rate" : "--scale-rate"});
    }
    return std::nullopt;
  }
  if (recorded) {
    if (load.rate) return in_range(*load.rate * load.scale_rate);
    if (load.scale_rate == 1) return std::nullopt;
    throw Error(ErrorCode::invalid_argument, "all sequences arrive at once: give a --rate to scale",
                {.parameter = "--scale-rate", .value = fmt::format("{}", load.scale_rate)});
  }
  if (!trace) {
    if (!load.rate) {
      throw Error(ErrorCode::invalid_argument, "needs --rate, in requests per second",
                  {.parameter = "--workload", .value = name()});
    }
    const double rate = in_range(*load.rate * load.scale_rate);
    if (!load.requests && load.duration && rate * *load.duration > static_cast<double>(requests_bound)) {
      refuse("--duration", *load.duration, "seconds in which at most 2e7 requests arrive");
    }
    return rate;
  }
  const double span = trace->requests.back().arrival_seconds;
  if (span == 0) {
    if (!load.rate && load.scale_rate == 1) return std::nullopt;
    throw Error(ErrorCode::invalid_argument, "all requests of the trace arrive at once, which no rate changes",
                {.parameter = load.rate ? "--rate" : "--scale-rate", .value = trace->name});
  }
  const double own = static_cast<double>(trace->requests.size() - 1) / span;
  return in_range(load.rate.value_or(own) * load.scale_rate);
}

std::optional<std::int64_t> ServingWorkload::most_requests(const Load& load) const {
  if (trace) {
    const auto all = static_cast<std::int64_t>(trace->requests.size());
    return std::min(load.requests.value_or(all), all);
  }
  if (recorded) return load.requests.value_or(static_cast<std::int64_t>(recorded->requests.size()));
  if (!load.requests && load.duration) return std::nullopt;
  return load.requests.value_or(default_requests);
}

std::unique_ptr<RequestSource> ServingWorkload::source(const Load& load) const {
  const std::optional<double> wanted = rate(load);
  if (recorded) return std::make_unique<RecordedSource>(*recorded, load, wanted);
  if (!trace) return std::make_unique<GeneratedSource>(generated, load, wanted);
  double stretch = 1;
  if (wanted && (load.rate || load.scale_rate != 1)) {
    const double span = trace->requests.back().arrival_seconds;
    stretch = static_cast<double>(trace->requests.size() - 1) / span / *wanted;
    if (span * stretch > longest_duration) {
      throw Error(ErrorCode::invalid_argument, "requests arrive after more than 9e9 seconds: set a larger --rate");
    }
  }
  return std::make_unique<TraceSource>(*trace, load, stretch);
}

}  // namespace evictsim::sim
