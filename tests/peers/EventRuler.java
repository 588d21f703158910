import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import software.amazon.event.ruler.JsonRuleCompiler;
import software.amazon.event.ruler.Ruler;

/**
 * Says for each pattern whether it matches an event, as AWS's Event Ruler does: java -cp 'DIR/*' EventRuler.java.
 *
 * <p>Reads a line with a pattern and a line with an event, and so on, and writes a line for each two: true, false, or what is wrong with
 * the pattern.
 */
class EventRuler {
  public static void main(String[] arguments) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    for (String pattern = in.readLine(); pattern != null; pattern = in.readLine()) {
      String event = in.readLine();
      String fault = JsonRuleCompiler.check(pattern);
      out.println(fault == null ? String.valueOf(Ruler.matchesRule(event, pattern)) : fault.lines().findFirst().orElse("?"));
    }
    out.flush();
  }
}
