#include "policies/formula/types.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "policies/names.h"

namespace evictsim::policies::formula {
namespace {

constexpr models::Index longest_window = 65536;
constexpr models::Index widest_kernel = 1023;

const char* article_and_name(Shape shape) {
  constexpr std::array names = {
      "a number",
      "a number per entry and KV head",
      "a number per entry and query head",
      "a vector per entry and KV head",
      "a vector per entry and query head",
      "a number per entry and query",
  };
  return names[static_cast<std::size_t>(shape)];
}

bool is_row(Shape shape) { return shape == Shape::head_row || shape == Shape::query_row; }

const std::map<std::string, Term, std::less<>>& features() {
  static const std::map<std::string, Term, std::less<>> table = {
      {"attention", {Operation::attention, Shape::attention}},
      {"k", {Operation::keys, Shape::head_vectors}},
      {"v", {Operation::values, Shape::head_vectors}},
      {"projected", {Operation::projected_values, Shape::query_vectors}},
      {"age", {Operation::age, Shape::head_row}},
      {"position", {Operation::position, Shape::head_row}},
      {"observers", {Operation::observers, Shape::head_row}},
      {"entropy", {Operation::entropy, Shape::head_row}},
      {"hidden_jump", {Operation::hidden_jump, Shape::head_row}},
      {"seen", {Operation::seen, Shape::number}},
  };
  return table;
}

constexpr const char* raise_name = "raise_recent";

class Checker {
 public:
  explicit Checker(std::string_view text) : text_(text) {}

  [[nodiscard]] Formula formula(const Expression& expression) const {
    if (expression.kind == Expression::Kind::call && expression.word == raise_name) {
      const Expression& argument = only_argument(expression);
      refuse_other_options(expression, {"window"});
      return {.score = row(argument, "raises entries of"), .raised = required(expression, "window", longest_window)};
    }
    return {.score = row(expression, "a score is"), .raised = 0};
  }

 private:
  using Handler = Term (Checker::*)(const Expression&) const;

  /// What calls of these names mean, `raise_recent` apart.
  static const std::map<std::string, Handler, std::less<>>& functions() {
    static const std::map<std::string, Handler, std::less<>> table = {
        {"norm", &Checker::norm},
        {"difference", &Checker::difference},
        {"mean", &Checker::statistic<Statistic::mean>},
        {"sum", &Checker::statistic<Statistic::sum>},
        {"max", &Checker::maximum},
        {"min", &Checker::elementwise<Operation::minimum>},
        {"last", &Checker::last},
        {"log", &Checker::each<Operation::logarithm>},
        {"exp", &Checker::each<Operation::exponential>},
        {"sqrt", &Checker::each<Operation::square_root>},
        {"abs", &Checker::each<Operation::absolute>},
        {"pool_avg", &Checker::pooled<Operation::pool_avg>},
        {"pool_max", &Checker::pooled<Operation::pool_max>},
        {"share", &Checker::over_entries<Operation::share>},
        {"zscore", &Checker::over_entries<Operation::zscore>},
        {"softmax", &Checker::over_entries<Operation::softmax>},
        {"rank", &Checker::over_entries<Operation::rank>},
        {"older", &Checker::older},
    };
    return table;
  }

  static std::vector<std::string> function_names() {
    std::vector<std::string> names = {raise_name};
    for (const auto& [name, handler] : functions()) names.push_back(name);
    return names;
  }

  [[nodiscard]] Term term(const Expression& expression) const {
    switch (expression.kind) {
      case Expression::Kind::number:
        return {.operation = Operation::number, .shape = Shape::number, .number = expression.number};
      case Expression::Kind::name:
        return feature(expression);
      case Expression::Kind::call:
        return called(expression);
      case Expression::Kind::operation:
        break;
    }
    if (expression.arguments.size() == 1) return applied(Operation::negate, {value(expression.arguments.front())});
    static const std::map<std::string, Operation, std::less<>> operators = {{"+", Operation::add},
                                                                            {"-", Operation::subtract},
                                                                            {"*", Operation::multiply},
                                                                            {"/", Operation::divide},
                                                                            {"^", Operation::power}};
    return applied(operators.at(expression.word),
                   {value(expression.arguments.front()), value(expression.arguments.back())});
  }

  [[nodiscard]] Term feature(const Expression& expression) const {
    const auto found = features().find(expression.word);
    if (found != features().end()) return found->second;
    const std::vector<std::string> known = function_names();
    if (std::find(known.begin(), known.end(), expression.word) != known.end()) {
      refuse(expression, fmt::format("is a function; write {}(...)", expression.word));
    }
    unknown(expression);
  }

  [[nodiscard]] Term called(const Expression& expression) const {
    const auto found = functions().find(expression.word);
    if (found != functions().end()) return (this->*found->second)(expression);
    if (expression.word == raise_name) refuse(expression, "stands outside everything else");
    if (features().contains(expression.word)) refuse(expression, "is a feature; write it without parentheses");
    unknown(expression);
  }

  [[noreturn]] void unknown(const Expression& expression) const {
    std::vector<std::string> known = function_names();
    for (const auto& [name, term] : features()) known.push_back(name);
    fail(text_, expression.place,
         fmt::format("no such feature or function '{}'; nearest: {}", expression.word,
                     join(nearest_of(expression.word, known, 2))),
         ErrorCode::unknown_name);
  }

  // Arguments -------------------------------------------------------------------------------------------------------

  /// A term that arithmetic works on.
  [[nodiscard]] Term value(const Expression& expression) const {
    Term checked = term(expression);
    refuse_unreduced(expression, checked);
    return checked;
  }

  /// A term with a number per entry.
  [[nodiscard]] Term row(const Expression& expression, const std::string& purpose) const {
    Term checked = value(expression);
    refuse_number(expression, checked, purpose);
    return checked;
  }

  void refuse_unreduced(const Expression& expression, const Term& checked) const {
    if (checked.shape == Shape::number || is_row(checked.shape)) return;
    const char* advice = checked.shape == Shape::attention ? "reduce it first: mean(attention, window=32), "
                                                             "sum(attention) or last(attention)"
                                                           : "take its norm(...) or difference(...)";
    fail(text_, expression.place,
         fmt::format("{} is {}, not one per entry; {}", expression.word, article_and_name(checked.shape), advice));
  }

  void refuse_number(const Expression& expression, const Term& checked, const std::string& purpose) const {
    if (checked.shape != Shape::number) return;
    fail(text_, expression.place, fmt::format("{} a number per entry; this is one number for all", purpose));
  }

  [[nodiscard]] const Expression& only_argument(const Expression& call) const {
    if (call.arguments.size() != 1) {
      refuse(call, fmt::format("takes one argument, not {}", call.arguments.size()));
    }
    return call.arguments.front();
  }

  void refuse_other_options(const Expression& call, const std::vector<std::string>& known) const {
    for (std::size_t i = 0; i < call.options.size(); ++i) {
      const Option& option = call.options[i];
      if (std::find(known.begin(), known.end(), option.name) == known.end()) {
        fail(text_, option.place,
             known.empty() ? fmt::format("{} takes no options here", call.word)
                           : fmt::format("{} has no option {} here; it takes {}", call.word, option.name, join(known)),
             ErrorCode::unknown_name);
      }
      const auto same = [&](const Option& other) { return other.name == option.name; };
      if (std::any_of(call.options.begin(), call.options.begin() + static_cast<std::ptrdiff_t>(i), same)) {
        fail(text_, option.place, fmt::format("{} is given twice", option.name));
      }
    }
  }

  static const Option* find(const Expression& call, std::string_view name) {
    const auto found =
        std::find_if(call.options.begin(), call.options.end(), [&](const Option& one) { return one.name == name; });
    return found == call.options.end() ? nullptr : &*found;
  }

  /// A whole number from 1.
  [[nodiscard]] std::optional<models::Index> whole(const Expression& call, const char* name, models::Index most) const {
    const Option* option = find(call, name);
    if (option == nullptr) return std::nullopt;
    models::Index number = 0;
    const char* last = option->value.data() + option->value.size();
    const auto [end, failure] = std::from_chars(option->value.data(), last, number);
    if (failure != std::errc() || end != last || number < 1 || number > most) {
      fail(text_, option->place, fmt::format("{} must be a whole number, 1 .. {}", name, most));
    }
    return number;
  }

  [[nodiscard]] models::Index required(const Expression& call, const char* name, models::Index most) const {
    const std::optional<models::Index> number = whole(call, name, most);
    if (!number) refuse(call, fmt::format("needs {0}=, as in {1}(x, {0}=32)", name, call.word));
    return *number;
  }

  [[noreturn]] void refuse(const Expression& expression, const std::string& what) const {
    fail(text_, expression.place, fmt::format("{} {}", expression.word, what));
  }

  // Operations ------------------------------------------------------------------------------------------------------

  /// An operation whose result has the shape of its widest argument.
  static Term applied(Operation operation, std::vector<Term> arguments) {
    Term result{.operation = operation};
    for (const Term& argument : arguments) result.shape = std::max(result.shape, argument.shape);
    result.arguments = std::move(arguments);
    return result;
  }

  template <Operation operation>
  [[nodiscard]] Term each(const Expression& call) const {
    refuse_other_options(call, {});
    return applied(operation, {value(only_argument(call))});
  }

  template <Operation operation>
  [[nodiscard]] Term over_entries(const Expression& call) const {
    refuse_other_options(call, {});
    return applied(operation, {row(only_argument(call), call.word + " takes")});
  }

  template <Operation operation>
  [[nodiscard]] Term elementwise(const Expression& call) const {
    refuse_other_options(call, {});
    if (call.arguments.size() < 2) refuse(call, "takes two arguments or more");
    Term result = value(call.arguments.front());
    for (std::size_t i = 1; i < call.arguments.size(); ++i) {
      result = applied(operation, {std::move(result), value(call.arguments[i])});
    }
    return result;
  }

  template <Operation operation>
  [[nodiscard]] Term pooled(const Expression& call) const {
    refuse_other_options(call, {"kernel"});
    Term result = applied(operation, {row(only_argument(call), call.word + " takes")});
    result.count = whole(call, "kernel", widest_kernel).value_or(5);
    if (result.count % 2 == 0) fail(text_, find(call, "kernel")->place, "kernel must be odd");
    return result;
  }

  [[nodiscard]] Term older(const Expression& call) const {
    refuse_other_options(call, {"window"});
    Term result = applied(Operation::older, {row(only_argument(call), "older takes")});
    result.count = required(call, "window", longest_window);
    return result;
  }

  [[nodiscard]] Term norm(const Expression& call) const {
    refuse_other_options(call, {"order"});
    Term vectors = term(only_argument(call));
    if (vectors.shape != Shape::head_vectors && vectors.shape != Shape::query_vectors) {
      fail(text_, call.arguments.front().place,
           fmt::format("norm takes vectors (k, v or projected), not {}", article_and_name(vectors.shape)));
    }
    Term result{.operation = Operation::norm,
                .shape = vectors.shape == Shape::head_vectors ? Shape::head_row : Shape::query_row};
    result.count = whole(call, "order", 2).value_or(2);
    result.arguments.push_back(std::move(vectors));
    return result;
  }

  [[nodiscard]] Term difference(const Expression& call) const {
    refuse_other_options(call, {});
    Term vectors = term(only_argument(call));
    if (vectors.shape != Shape::head_vectors) {
      fail(text_, call.arguments.front().place,
           fmt::format("difference takes k or v, not {}", article_and_name(vectors.shape)));
    }
    Term result{.operation = Operation::difference, .shape = Shape::head_row};
    result.arguments.push_back(std::move(vectors));
    return result;
  }

  [[nodiscard]] Term last(const Expression& call) const {
    refuse_other_options(call, {});
    const Expression& argument = only_argument(call);
    if (term(argument).shape != Shape::attention) fail(text_, argument.place, "last takes attention");
    return {
        .operation = Operation::window_attention, .shape = Shape::query_row, .statistic = Statistic::sum, .count = 1};
  }

  [[nodiscard]] Term maximum(const Expression& call) const {
    return call.arguments.size() == 1 ? statistic<Statistic::max>(call) : elementwise<Operation::maximum>(call);
  }

  /// Of attention over its queries; of rows over heads.
  template <Statistic statistic>
  [[nodiscard]] Term statistic_of_rows(const Expression& call, Term argument) const {
    refuse_other_options(call, {"over"});
    const Option* over = find(call, "over");
    if (over != nullptr && over->value != "group" && over->value != "layer") {
      fail(text_, over->place, "over must be group or layer");
    }
    const bool layer = over != nullptr && over->value == "layer";
    if (!layer && argument.shape != Shape::query_row) {
      fail(text_, call.arguments.front().place,
           fmt::format("{} takes attention or a number per entry and query head; this is {}", call.word,
                       article_and_name(argument.shape)));
    }
    refuse_unreduced(call.arguments.front(), argument);
    refuse_number(call.arguments.front(), argument, call.word + " takes");
    Term result{
        .operation = layer ? Operation::layer : Operation::group, .shape = Shape::head_row, .statistic = statistic};
    result.arguments.push_back(std::move(argument));
    return result;
  }

  template <Statistic statistic>
  [[nodiscard]] Term statistic_of_attention(const Expression& call) const {
    refuse_other_options(call, {"window"});
    const std::optional<models::Index> window = whole(call, "window", longest_window);
    if (!window && statistic == Statistic::max) refuse(call, "of all queries is not at hand; give a window=");
    return {.operation = window ? Operation::window_attention : Operation::accumulated_attention,
            .shape = Shape::query_row,
            .statistic = statistic,
            .count = window.value_or(0)};
  }

  template <Statistic statistic_>
  [[nodiscard]] Term statistic(const Expression& call) const {
    Term argument = term(only_argument(call));
    return argument.shape == Shape::attention ? statistic_of_attention<statistic_>(call)
                                              : statistic_of_rows<statistic_>(call, std::move(argument));
  }

  std::string_view text_;
};

}  // namespace

Formula check(std::string_view text) { return Checker(text).formula(parse(text)); }

Needs needs_of(const Term& term) {
  Needs needs;
  switch (term.operation) {
    case Operation::window_attention:
      needs.window_queries = term.count;
      break;
    case Operation::accumulated_attention:
      needs.all_queries = needs.decode_attention = true;
      break;
    case Operation::projected_values:
      needs.output_weights = true;
      break;
    case Operation::entropy:
      needs.channels.insert(traces::Channel::entropy);
      break;
    case Operation::hidden_jump:
      needs.channels.insert(traces::Channel::step_norm);
      break;
    default:
      break;
  }
  for (const Term& argument : term.arguments) needs = needs.with(needs_of(argument));
  return needs;
}

bool accumulates(const Term& term) {
  return term.operation == Operation::accumulated_attention ||
         std::any_of(term.arguments.begin(), term.arguments.end(), accumulates);
}

}  // namespace evictsim::policies::formula
