#include "sim/cli/cache_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/csv.h"
#include "policies/call.h"
#include "policies/names.h"
#include "sim/memory/hit_ratio.h"
#include "traces/blocks/block_trace.h"
#include "traces/error.h"

namespace evictsim {
namespace {

using traces::BlockTraceFormat;

const std::map<std::string, BlockTraceFormat>& formats() {
  static const std::map<std::string, BlockTraceFormat> names = {{"auto", BlockTraceFormat::automatic},
                                                                {"mooncake", BlockTraceFormat::mooncake},
                                                                {"csv", BlockTraceFormat::csv},
                                                                {"oracleGeneral", BlockTraceFormat::oracle_general}};
  return names;
}

struct CacheArguments {
  std::vector<std::string> traces, policies, sizes;
  std::string csv, format = "auto", unit = "objects", lookup = "prompt";
  double sample = 0;
  std::uint64_t seed = 0;
  int threads = 0;
  bool list = false, quiet = false;
};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

std::vector<std::uint64_t> parse_sizes(const std::vector<std::string>& lists) {
  std::vector<std::uint64_t> sizes;
  for (const std::string& list : lists) {
    for (const std::string& word : policies::split_list(list)) {
      std::uint64_t size = 0;
      const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), size);
      if (problem != std::errc{} || end != word.data() + word.size() || size < 1 || size > sim::largest_cache) {
        throw Error(ErrorCode::invalid_argument, "expected whole numbers from 1 to 2^53, separated by commas",
                    {.parameter = "--size", .value = word});
      }
      sizes.push_back(size);
    }
  }
  return sizes;
}

BlockTraceFormat parse_format(const std::string& name) {
  if (const auto found = formats().find(name); found != formats().end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known, format] : formats()) names.push_back(known);
  throw Error(ErrorCode::unknown_name, "expected one of " + policies::join(names),
              {.parameter = "--format", .value = name});
}

void print_kinds() {
  for (const sim::ReplacementKind* kind : sim::replacement_kinds()) {
    print(fmt::format("{:<8} {}\n         {}\n", kind->name, kind->sentence, kind->citation));
    for (const policies::ParameterSpec& parameter : kind->parameters) {
      print(fmt::format("         {} = {}: {} ({})\n", parameter.name, parameter.default_value, parameter.help,
                        parameter.range()));
    }
  }
}

void print_table(const traces::BlockTrace& trace, const std::vector<sim::HitRatio>& rows, std::size_t sizes) {
  print(fmt::format("{}: {} references, {} objects. Hit ratio by cache size:\n\n", trace.name, trace.references.size(),
                    trace.objects));
  std::size_t name_width = 8;
  for (const sim::HitRatio& row : rows) name_width = std::max(name_width, row.policy.size());
  const bool sampled = rows.front().error.has_value();
  const std::size_t cell = sampled ? 17 : 12;
  std::string line = fmt::format("{:<{}}", "policy", name_width);
  for (std::size_t i = 0; i < sizes; ++i) line += fmt::format("{:>{}}", rows[i].size, cell);
  print(line + "\n");
  for (std::size_t first = 0; first < rows.size(); first += sizes) {
    line = fmt::format("{:<{}}", rows[first].policy, name_width);
    for (std::size_t i = first; i < first + sizes; ++i) {
      line += fmt::format("{:>{}}",
                          sampled ? fmt::format("{:.4f} +-{:.4f}", rows[i].hit_ratio, *rows[i].error)
                                  : fmt::format("{:.4f}", rows[i].hit_ratio),
                          cell);
    }
    print(line + "\n");
  }
  print("\n");
}

void run(const CacheArguments& arguments, bool sampled) {
  if (arguments.list) {
    print_kinds();
    return;
  }
  sim::HitRatioOptions options;
  options.sizes = parse_sizes(arguments.sizes);
  options.bytes = arguments.unit == "bytes";
  if (sampled) options.sample = arguments.sample;
  options.seed = arguments.seed;
  options.threads = arguments.threads;
  std::vector<sim::Replacement> replacements;
  for (const std::string& list : arguments.policies) {
    for (sim::Replacement& replacement : sim::parse_replacements(list)) replacements.push_back(std::move(replacement));
  }
  const BlockTraceFormat format = parse_format(arguments.format);
  const auto lookup = arguments.lookup == "block" ? traces::BlockLookup::block : traces::BlockLookup::prompt;
  std::vector<std::string> columns = {"trace", "policy", "size", "references", "hits", "hit_ratio"};
  if (sampled) columns.insert(columns.end(), {"sample", "hit_ratio_error"});
  std::optional<analysis::CsvFile> csv;
  if (!arguments.csv.empty()) {
    for (const std::string& path : arguments.traces) {
      std::error_code ignored;
      if (std::filesystem::equivalent(path, arguments.csv, ignored)) {
        throw Error(ErrorCode::invalid_argument, "would overwrite the trace",
                    {.file = arguments.csv, .parameter = "--csv"});
      }
    }
    csv.emplace(arguments.csv, columns);
  }
  for (const std::string& path : arguments.traces) {
    const traces::BlockTrace trace = traces::read_block_trace(path, format, lookup);
    const std::vector<sim::HitRatio> rows = sim::hit_ratios(trace, replacements, options);
    if (csv) {
      std::string lines;
      for (const sim::HitRatio& row : rows) {
        std::vector<std::string> fields = {trace.name,
                                           row.policy,
                                           std::to_string(row.size),
                                           std::to_string(row.references),
                                           std::to_string(row.hits),
                                           analysis::decimal(row.hit_ratio)};
        if (row.error) fields.insert(fields.end(), {analysis::decimal(*options.sample), analysis::decimal(*row.error)});
        lines += analysis::csv_line(fields);
      }
      csv->append(lines);
    }
    if (!arguments.quiet) print_table(trace, rows, options.sizes.size());
  }
  if (csv && !arguments.quiet) print("Wrote " + arguments.csv + ".\n");
}

}  // namespace

void add_cache_command(CLI::App& app) {
  const auto arguments = std::make_shared<CacheArguments>();
  CLI::App* command = app.add_subcommand("cache", "Hit ratios of block caches over a trace: policies times sizes");
  command->footer(
      "Formats by name: .jsonl (Mooncake's hash_ids), .csv (time,object[,size]), .oracleGeneral or .bin (libCacheSim's "
      "records).\nExample: evictsim cache trace.jsonl --policy lru,arc,s3fifo --size 1000,10000 --csv cache.csv");
  const auto list = [command](const char* names, std::vector<std::string>& values, const char* help) {
    return command->add_option(names, values, help)->allow_extra_args(false);
  };
  CLI::Option* listing = command->add_flag("--list", arguments->list, "Explain the policies and their parameters");
  CLI::Option* trace = command->add_option("TRACE", arguments->traces, "Block traces");
  CLI::Option* policy = list("--policy,-p", arguments->policies,
                             "Policies, separated by commas, with parameters: lru,clock(bits=2); `all`")
                            ->type_name("P,...");
  CLI::Option* size =
      list("--size,-s", arguments->sizes, "Sizes of the cache, in objects or bytes (--unit)")->type_name("N,...");
  command->add_option("--unit", arguments->unit, "What sizes count: objects, each as large as any other, or bytes")
      ->check(CLI::IsMember({"objects", "bytes"}))
      ->capture_default_str();
  command
      ->add_option(
          "--lookup", arguments->lookup,
          "Of Mooncake requests: the whole prompt, then its blocks from the last to the first, or block by block")
      ->check(CLI::IsMember({"prompt", "block"}))
      ->capture_default_str();
  CLI::Option* sample =
      command
          ->add_option("--sample", arguments->sample,
                       "Estimate from this share of the objects, with 95 % intervals (SHARDS); 0.01 is usual")
          ->type_name("R");
  command->add_option("--seed", arguments->seed, "Which objects are sampled (default: 0)")->type_name("S");
  command->add_option("--format", arguments->format, "auto, mooncake, csv or oracleGeneral")->capture_default_str();
  command->add_option("--csv", arguments->csv, "Write one row per trace, policy and size")->type_name("cache.csv");
  command->add_option("--threads", arguments->threads, "Threads; results do not depend on it (default: all cores)")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--quiet,-q", arguments->quiet, "Print no table");
  command->callback([=] {
    for (const CLI::Option* needed : {trace, policy, size}) {
      if (listing->count() == 0 && needed->count() == 0) throw CLI::RequiredError(needed->get_name());
    }
    run(*arguments, sample->count() > 0);
  });
}

}  // namespace evictsim
